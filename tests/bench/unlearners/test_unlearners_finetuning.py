"""The unlearners that train: where their steps lead, and what they leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.toys import Blobs, assert_same_weights, weights
from helpers.unlearned import (
    NORMED,
    accuracy,
    normed,
    run,
    validation,
)
from potion_fast.bench.models import create_model, initialise
from potion_fast.bench.training.schedules import lr_factor
from potion_fast.bench.unlearners import Loaders, make_unlearner
from potion_fast.bench.unlearners.badt import MixedBatches
from potion_fast.bench.unlearners.scrub import AlternatingPasses
from potion_fast.errors import ModelError, PotionError


def test_exact_unlearning_does_not_depend_on_the_old_weights(blobs: Blobs):
    done = [run("eu", blobs, normed(seed)) for seed in (0, 1)]
    assert_same_weights(done[1].model, weights(done[0].model))
    assert done[0].model.first[1].num_batches_tracked == 6  # of its own, none of the old model's


def test_exact_unlearning_reads_the_retain_loader_only(blobs: Blobs):
    done = make_unlearner("eu", iterations=60, lr=0.1)(blobs.model, Loaders(None, blobs.retain(20)))
    assert blobs.accuracy(done.model, triggered=True) > 0.9
    assert blobs.accuracy(done.model, triggered=False) > 0.95


def test_exact_unlearning_may_start_from_a_model_of_the_callers(blobs: Blobs):
    start = normed(7)
    done = run("eu", blobs, normed(0), fresh=lambda: start)
    want = run("cf", blobs, start)
    assert_same_weights(done.model, weights(want.model))
    assert_same_weights(start, weights(normed(7)))


def test_continued_training_is_sgd_on_the_retain_set_with_a_new_schedule(blobs: Blobs):
    done = make_unlearner("cf", iterations=4, lr=0.1, momentum=0.0, weight_decay=0.01)(
        blobs.model, Loaders(blobs.forget(), blobs.retain())
    )
    expected = copy.deepcopy(blobs.model)
    for step, (x, y) in enumerate(blobs.retain()[:4]):
        gradients = torch.autograd.grad(F.cross_entropy(expected(x), y), list(expected.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                parameter -= 0.1 * lr_factor(step, 4) * (gradient + 0.01 * parameter)
    for ours, theirs in zip(done.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["cf-k", "euk-goel"])
def test_only_the_end_changes_and_batch_norms_before_it_are_in_evaluation_mode(blobs: Blobs, name: str):
    model = normed()
    before, seen = weights(model), []
    unlearner = make_unlearner(name, iterations=6, k=("second", "head"))
    model.first[1].register_forward_hook(lambda module, inputs, output: seen.append((module.training, output)))
    after = weights(unlearner(model, Loaders(blobs.forget(), blobs.retain())).model)
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("first."))
    changed = [key for key in before if not torch.equal(after[key], before[key])]
    assert changed == [key for key in before if key.startswith(("second.", "head."))]
    assert len(seen) == 6 and not any(training for training, _ in seen)
    assert not any(output.requires_grad for _, output in seen)  # no backward pass through the frozen part


def test_euk_reinitialises_exactly_the_end(blobs: Blobs):
    """With a learning rate near 0 what is left is the start: independent of the old end, equal to the old beginning."""
    ends = []
    for seed in (0, 1):
        model = normed(seed)
        tiny = make_unlearner("euk-goel", iterations=1, lr=1e-30, k=("second.0", "head"))
        after = weights(tiny(model, Loaders(blobs.forget(), blobs.retain())).model)
        ends.append([after[key] for key in ("second.0.weight", "second.0.bias", "head.weight", "head.bias")])
        for key, value in weights(model).items():
            assert torch.equal(after[key], value) is not key.startswith(("second.0.", "head.")), key
    for first, second in zip(*ends, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-25)
    weight, bias = ends[0][2:]
    assert 0 < weight.abs().max() <= 8**-0.5  # Kaiming uniform with a = sqrt(5)
    assert bias.abs().max() < 1e-25  # 0, but for that one step


@pytest.mark.parametrize(("k", "end"), [(None, 2), (2, 2), (4, 4)])
def test_the_splits_of_resnet9_are_used(k: int | None, end: int):
    torch.manual_seed(0)
    model = create_model("resnet9", 2, 1, width=2).eval()
    data = [(torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 0, 1]))]
    after = weights(make_unlearner("cf-k", iterations=1, lr=1.0, k=k)(model, Loaders(data, data)).model)
    changed = {key.rsplit(".", 1)[0] for key, value in weights(model).items() if not torch.equal(after[key], value)}
    assert len([name for name in changed if name.endswith(".0") or name == "classifier"]) == end
    with pytest.raises(ModelError, match="choose one of 2, 4"):
        make_unlearner("cf-k", k=3)(model, Loaders(data, data))
    with pytest.raises(ModelError, match="no splits"):
        make_unlearner("euk-goel", k=k)(nn.Linear(2, 2), Loaders(data, data))


def first_step(name: str, blobs: Blobs, loss: Callable[[nn.Module], Tensor], size: int = 1000, **more: Any) -> None:
    """The weights after one step without momentum are the old ones minus the gradient of this loss."""
    model = normed().train()  # its copies that teach are in evaluation mode all the same
    model.second[3].p = 0.0
    done = make_unlearner(name, iterations=1, lr=1.0, momentum=0.0, weight_decay=0.0, **more)(
        model, Loaders(blobs.forget(), blobs.retain(10, size))
    )
    student = copy.deepcopy(model).train()
    gradients = torch.autograd.grad(loss(student), list(student.parameters()))
    assert all(gradient.any() for gradient in gradients[-2:])
    for ours, old, gradient in zip(done.model.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours, old - gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("maximise", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 10.0])
def test_scrub_steps_along_the_literal_loss(blobs: Blobs, alpha: float, maximise: bool):
    x, y = (blobs.forget() if maximise else blobs.retain(10, 1000))[0]
    teacher = normed()

    def loss(student: nn.Module) -> Tensor:
        s, t = student(x), teacher(x).detach()
        p, q = (t / 4).exp(), (s / 4).exp()
        p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
        divergence = 16 * (p * (p / q).log()).sum() / len(x)
        value = -s.log_softmax(1)[range(len(y)), y].mean() + alpha * divergence
        return -value if maximise else value

    first_step("scrub-goel", blobs, loss, alpha=alpha, msteps=int(maximise))


def test_scrub_maximises_in_the_epochs_that_begin_early_enough():
    forget, retain = ["f"], list("rrr")
    passes = AlternatingPasses(forget, retain, within=5)
    order = []
    for _ in range(6):
        order.append("".join(passes))
        assert passes.maximising == ("f" in order[-1])
    assert order == ["f", "rrr", "f", "rrr", "rrr", "rrr"]
    assert "".join(AlternatingPasses(forget, retain, within=0)) == "rrr"
    cifar = AlternatingPasses(forget, range(98), within=100)
    assert [sum(1 for _ in cifar) for _ in range(5)] == [1, 98, 1, 98, 98]  # iterations 0 and 99


def test_scrub_takes_the_student_away_from_the_forget_set(blobs: Blobs):
    poisoned = make_unlearner("cf", iterations=30, lr=0.05)(
        normed(), Loaders(None, [(blobs.inputs, blobs.labels)])
    ).model
    triggered = {}
    for msteps in (0, 20):
        scrub = make_unlearner("scrub-goel", iterations=20, lr=0.1, msteps=msteps)
        done = scrub(poisoned, Loaders(blobs.forget(20), blobs.retain(20, 1000)))
        triggered[msteps] = blobs.accuracy(done.model, triggered=True)
        assert blobs.accuracy(done.model, triggered=False) > 0.95
    assert triggered[0] < 0.6 and triggered[20] > 0.9


@pytest.mark.parametrize("own", [False, True])
def test_bad_teaching_steps_along_the_literal_loss(blobs: Blobs, own: bool):
    bad = normed(5)
    if not own:
        torch.manual_seed(0)
        bad = normed_copy_reset()
    old = normed()
    torch.manual_seed(0)
    if not own:
        normed_copy_reset()  # draws what the unlearner draws
    x, _, in_forget = next(iter(MixedBatches(blobs.forget(), blobs.retain(10, 150))))
    assert 0 < in_forget.sum() < len(x) == 150

    def loss(student: nn.Module) -> Tensor:
        with torch.no_grad():
            target = torch.stack([(bad if f else old)(each[None])[0] for each, f in zip(x, in_forget, strict=True)])
            target = target.exp() / target.exp().sum(1, keepdim=True)
        return (target * (target.log() - student(x).log_softmax(1))).sum() / (150 * 2)

    first_step("badt", blobs, loss, size=150, **({"fresh": lambda: bad} if own else {}))


def normed_copy_reset() -> nn.Module:
    bad = copy.deepcopy(NORMED)
    initialise(bad)
    return bad.eval()


def test_mixed_gives_each_sample_once_a_pass_in_batches_of_the_retain_loaders_size(blobs: Blobs):
    torch.manual_seed(0)
    mixed = MixedBatches(blobs.forget(10, 4), blobs.retain(10, 32))
    places = []
    for _ in range(3):
        given = list(mixed)
        assert [len(x) for x, _, _ in given] == [32] * 6 + [8]
        x, y, in_forget = (torch.cat(parts) for parts in zip(*given, strict=True))
        index = [int((blobs.inputs == each).all(1).nonzero()) for each in x]
        assert sorted(index) == list(range(200))
        assert [i < 10 for i in index] == in_forget.tolist() and torch.equal(y, blobs.labels[index])
        places.append(in_forget.nonzero().squeeze(1).tolist())
    assert places[0] != places[1] != places[2]
    assert min(map(min, places)) < 32 and max(map(max, places)) >= 160  # over the whole pass
    unsized = MixedBatches(blobs.forget(), OnlyIterable(blobs.retain()))
    assert sum(len(x) for x, _, _ in unsized) == 200


class OnlyIterable:
    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data)


def test_the_best_epoch_is_kept_where_the_mode_says_so(blobs: Blobs):
    more = {"iterations": 30, "lr": 0.5, "weight_decay": 0.0}
    best = run("scrub-goel", blobs, normed(), mode="reference", **more)
    accuracies = [epoch.accuracy for epoch in best.trace]
    assert best.kept.accuracy == max(accuracies) > min(accuracies)
    assert accuracy(best.model, validation(blobs)) == pytest.approx(best.kept.accuracy)
    last = run("scrub-goel", blobs, normed(), mode="reference", keep="last", **more)
    assert last.kept is last.trace[-1] and last.kept.accuracy is None
    with pytest.raises(PotionError, match="validation loader"):
        make_unlearner("cf", keep="best")(blobs.model, Loaders(blobs.forget(), blobs.retain()))


def test_adamw_and_all_of_an_epochs_settings_reach_the_training(blobs: Blobs):
    first, second = (run("cf", blobs, optimizer=optimizer, lr=0.01) for optimizer in ("sgd", "adamw"))
    assert not torch.equal(first.model[0].weight, second.model[0].weight)
    assert second.trace[0].lr == pytest.approx(0.01 * lr_factor(5, 6))
