"""The unlearners: each does what its definition says, by one interface, and leaves the caller's model alone."""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import potion_fast as pf
from potion_fast.errors import DataError, ModelError, PotionError, PotionWarning, SearchError
from potion_fast.models import create_model, initialise
from potion_fast.percentiles import percentile_of
from potion_fast.schedules import lr_factor
from potion_fast.unlearners import UNLEARNERS, Unlearned, make_unlearner
from potion_fast.unlearners.badt import Mixed
from potion_fast.unlearners.scrub_goel import Phases
from toys import Blobs, Net, assert_same_weights, batches, net, weights

GOEL = ("eu", "euk-goel", "cf", "cf-k", "badt", "scrub-goel")
PAWELCZYK = ("gd", "ngd", "ga", "euk-pawelczyk", "cfk-pawelczyk", "scrub-pawelczyk", "scrub-kurmanji", "neggrad-plus")
TRAINED = (*GOEL, *PAWELCZYK, "jit", "retrain")
PAIRED = ("scrub-pawelczyk", "neggrad-plus")  # a batch of the retain set and one of S_f in every iteration
FORGET_ONLY = ("ga", "jit")
DAMPENING = ("ptn-xlf", "ptn-lf", "ptn-ssd", "assd", "ssd-goel")
END = {name: {"k": ("2",)} for name in ("euk-goel", "cf-k")} | {  # of Blobs' model: its last layer
    name: {"k": 1} for name in ("euk-pawelczyk", "cfk-pawelczyk")
}


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs()


class Normed(nn.Module):
    """A linear layer and a batch norm, twice, and a head; and dropout, so that the seed matters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


def normed(seed: int = 0) -> Normed:
    """A Normed whose parameters are nowhere as they are initialised, and whose batch norms have seen data."""
    torch.manual_seed(seed)
    model = Normed()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model(torch.randn(64, 12))
    return model.eval()


NORMED = normed()


def settings(name: str, **more: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"iterations": 6, "weight_decay": 0.0} if name in TRAINED else {}
    return {**own, **END.get(name, {}), **more}


def validation(blobs: Blobs) -> Any:
    clean = blobs.inputs.clone()
    clean[:, -1] = 0
    return batches(clean, blobs.clean, 100)


def run(name: str, blobs: Blobs, model: nn.Module | None = None, **more: Any) -> Unlearned:
    unlearner = make_unlearner(name, **settings(name, **more))
    return unlearner(model or blobs.model, blobs.forget(), blobs.retain(), validation_loader=validation(blobs))


def test_the_names_are_those_that_presets_use():
    assert list(UNLEARNERS) == [*DAMPENING, *TRAINED, "none"]
    assert all(unlearner.name == name for name, unlearner in UNLEARNERS.items())


def test_the_defaults_are_the_public_codes():
    def of(name: str, *keys: str) -> list[Any]:
        unlearner = make_unlearner(name)
        return [getattr(unlearner, key) for key in keys]

    assert of("eu", "iterations", "lr", "momentum", "weight_decay") == [4000, 0.025, 0.9, 5e-4]
    for name in ("euk-goel", "cf", "cf-k", "badt"):
        assert of(name, "iterations", "lr", "momentum", "weight_decay") == [1000, 0.025, 0.9, 5e-4]
    assert of("scrub-goel", "iterations", "lr", "msteps", "temperature") == [1000, 0.0025, 100, 4.0]
    assert {tuple(of(name, "schedule", "nesterov", "budget", "rates")) for name in GOEL} == {
        ("linear", False, None, None)
    }
    assert of("ptn-xlf", "rho", "max_steps") == [0.2, 500]
    assert of("assd", "dampening") == [1.0]
    (alphas, dampenings) = of("ssd-goel", "alphas", "dampenings")
    assert len(alphas) * len(dampenings) == 50


def test_the_defaults_of_paper_b_are_its_own_and_the_authors_where_it_gives_none():
    def of(name: str, *keys: str) -> list[Any]:
        unlearner = make_unlearner(name)
        return [getattr(unlearner, key) for key in ("lr", "momentum", "weight_decay", "schedule", "epochs", *keys)]

    gd = [1e-3, 0.9, 5e-4, "constant", 10]
    assert of("gd") == gd
    assert of("ngd", "variance") == [*gd, 1e-7]
    assert of("ga") == [1e-5, *gd[1:]]
    assert of("euk-pawelczyk", "k") == of("cfk-pawelczyk", "k") == [*gd, 3]
    assert of("scrub-pawelczyk", "gamma", "kl_weight") == [*gd, 0.99, 0.001]
    assert of("neggrad-plus", "beta") == [*gd, 0.999]
    more = ("msteps", "temperature", "gamma", "alpha")
    assert of("scrub-kurmanji", *more) == [5e-4, 0.9, 5e-4, "constant", 3, 2, 4.0, 0.99, 0.001]
    assert of("jit", "copies", "sigma") == [3e-4, 0.0, 0.0, "constant", 1, 25, 0.5]
    assert of("retrain") == [0.025, 0.9, 5e-4, "linear", 10]


@pytest.mark.parametrize("name", UNLEARNERS)
def test_the_callers_model_stays_as_it_was_and_the_seed_settles_the_weights(blobs: Blobs, name: str):
    model = copy.deepcopy(blobs.model).train()
    before, flags = weights(model), [parameter.requires_grad for parameter in model.parameters()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(3).tolist()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = run(name, blobs, model, seed=3)
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == expected  # as if nothing had been drawn
    second = run(name, blobs, model, seed=3)
    assert_same_weights(second.model, weights(first.model))
    assert_same_weights(model, before)
    assert model.training and flags == [parameter.requires_grad for parameter in model.parameters()]
    assert first.model is not model and not first.model.training
    assert not {id(p) for p in model.parameters()} & {id(p) for p in first.model.parameters()}
    assert all(parameter.requires_grad for parameter in first.model.parameters())
    assert first.method == name


@pytest.mark.parametrize("name", ["eu", "euk-goel", "badt", "cf", "retrain", "euk-pawelczyk", "ngd"])
def test_another_seed_gives_other_weights(blobs: Blobs, name: str):
    more = {"k": ("head",)} if name == "euk-goel" else {}
    first, second = (run(name, blobs, normed(), seed=seed, **more) for seed in (0, 1))
    assert not torch.equal(first.model.head.weight, second.model.head.weight)


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_steps_are_the_optimisers(blobs: Blobs, name: str):
    done = run(name, blobs)
    assert done.gradient_steps == (12 if name in PAIRED else 6) and done.trace[-1].iterations == 6
    assert done.learning_rate == make_unlearner(name).lr
    assert done.kept is done.trace[-1] and set(done.seconds) == {"training"}


@pytest.mark.parametrize("name", DAMPENING)
def test_gradient_steps_are_the_batches_of_the_importance_passes(blobs: Blobs, name: str):
    done = run(name, blobs)
    assert done.gradient_steps == len(blobs.forget()) + len(blobs.retain()) == 1 + 6 and done.learning_rate is None
    assert set(done.seconds) > {"forget", "retain"} and all(seconds > 0 for seconds in done.seconds.values())
    assert done.kept in done.trace


def test_none_is_the_base_model(blobs: Blobs):
    done = run("none", blobs)
    assert_same_weights(done.model, weights(blobs.model))
    assert (done.trace, done.kept, done.gradient_steps) == ([], None, 0)


@pytest.mark.parametrize("objective", ["xlf", "lf", "ssd"])
@pytest.mark.parametrize("mode", ["default", "reference"])
def test_ptn_is_the_whole_method(blobs: Blobs, objective: str, mode: str):
    done = run(f"ptn-{objective}", blobs, mode=mode, rho=0.3)
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), objective, mode=mode, rho=0.3)
    assert_same_weights(done.model, weights(want.model))
    assert done.report.summary()["objective"] == objective
    assert [step.alpha for step in done.trace] == [step.alpha for step in want.trace]
    assert done.kept == done.report.kept


def test_the_settings_of_ptn_reach_the_search(blobs: Blobs):
    more = {"rho": 0.9, "b_start": 0.5, "s_step": 1.5, "max_steps": 3, "strict": True, "strategy": "bisect"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        done = run("ptn-xlf", blobs, **more, group_size=2, amp="bfloat16")
        want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), "xlf", **more, group_size=2, amp=torch.bfloat16)
    assert done.warnings == want.warnings and len(told) == 2 * len(want.warnings)
    summary, other = done.report.summary(), want.summary()
    assert {key: summary[key] for key in other if key != "seconds" and "kept" not in key} == {
        key: value for key, value in other.items() if key != "seconds" and "kept" not in key
    }
    assert [step.percentile for step in done.trace] == [step.percentile for step in want.trace]
    assert_same_weights(done.model, weights(want.model))


@pytest.mark.parametrize("name", ["ptn-xlf", "assd"])
def test_a_loader_that_augments_gives_the_same_weights_for_the_same_seed(blobs: Blobs, name: str):
    def importances(seed: int) -> Tensor:
        unlearner = make_unlearner(name, seed=seed, group_size=10)
        loader = Augmented(blobs.retain())
        found = []
        edit = type(unlearner).edit
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(unlearner),
                "edit",
                lambda self, model, forget, retain, *rest: (
                    found.append(retain.mean) or edit(self, model, forget, retain, *rest)
                ),
            )
            unlearner(blobs.model, blobs.forget(), loader, validation_loader=validation(blobs))
        return found[0]

    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    first = importances(0)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(importances(0), first)
    assert not torch.equal(importances(1), first)


class Augmented:
    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return ((x + 0.1 * torch.randn_like(x), y) for x, y in self.data)


def test_ptn_heals(blobs: Blobs):
    assert blobs.accuracy(blobs.model, triggered=True) < 0.6
    done = run("ptn-xlf", blobs, strategy="minimal")
    assert blobs.accuracy(done.model, triggered=True) > 0.9
    assert blobs.accuracy(done.model, triggered=False) > 0.95


def test_in_mode_paper_the_forget_sets_importances_are_added_to_the_retain_sets(blobs: Blobs):
    done = run("ptn-xlf", blobs, mode="paper", b_start=0.01)
    everything = batches(
        torch.cat([blobs.inputs[10:], blobs.inputs[:10]]), torch.cat([blobs.labels[10:], blobs.labels[:10]]), 190
    )
    want = pf.unlearn(blobs.model, everything, blobs.forget(), mode="paper", b_start=0.01)
    assert done.report.retain.samples == 200
    torch.testing.assert_close(done.report.retain.mean, want.retain.mean, rtol=1e-5, atol=0)
    assert [step.percentile for step in done.trace] == [step.percentile for step in want.trace]


def test_importances_can_be_shared(blobs: Blobs):
    forget = pf.importance(blobs.model, blobs.forget(), "ssd", group_size=10)
    retain = pf.importance(blobs.model, blobs.retain(), "ssd", group_size=10)
    for name in ("ptn-ssd", "assd", "ssd-goel"):
        shared = make_unlearner(name).edit(blobs.model, forget, retain, blobs.forget(), validation(blobs))
        assert_same_weights(shared.model, weights(run(name, blobs).model))
        assert shared.gradient_steps == 0


def test_the_search_looks_at_the_evaluation_loader(blobs: Blobs):
    wrong = batches(blobs.inputs[:10], 1 - blobs.labels[:10], 10)
    with pytest.warns(PotionWarning, match="not learnt"):
        done = make_unlearner("ptn-xlf")(blobs.model, blobs.forget(), blobs.retain(), evaluation_loader=wrong)
    assert done.kept is None and done.warnings
    assert_same_weights(done.model, weights(blobs.model))


@pytest.mark.parametrize("dampening", [1.0, 0.25])
def test_assd_is_one_edit_at_the_share_of_the_forget_set(blobs: Blobs, dampening: float):
    done = run("assd", blobs, group_size=1, dampening=dampening)
    forget = pf.importance(blobs.model, blobs.forget(), "ssd")
    retain = pf.importance(blobs.model, blobs.retain(), "ssd")
    p = 100 - math.log(1 + 100 * 10 / 200)
    ratios = (forget.mean / retain.mean).numpy()
    alpha = np.nanpercentile(ratios[np.isfinite(ratios)], p)
    expected = copy.deepcopy(blobs.model)
    changed = 0
    for name, parameter in expected.named_parameters():
        f, o = forget[name], retain[name]
        chosen = (f > alpha * o) & (dampening * o < f)
        parameter.data[chosen] = (parameter * (dampening * o / f))[chosen]
        changed += int(chosen.sum())
    for ours, theirs in zip(done.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    (step,) = done.trace
    assert (step.percentile, step.dampened) == (percentile_of(0.05), changed) and 0 < changed < len(ratios)
    assert step.alpha == pytest.approx(alpha, rel=1e-6)
    with torch.no_grad():
        left = (done.model(blobs.inputs[:10]).argmax(1) == blobs.labels[:10]).double().mean()
    assert step.accuracy == left


def test_assd_says_when_it_changed_nothing(blobs: Blobs):
    with pytest.warns(PotionWarning, match="no weight was dampened"):
        done = make_unlearner("assd")(blobs.model, blobs.forget(), blobs.forget())  # all ratios are 1
    assert_same_weights(done.model, weights(blobs.model))
    assert len(done.warnings) == 1


def test_ssd_goel_chooses_of_50_settings_by_the_mean_change(blobs: Blobs):
    done = run("ssd-goel", blobs)
    assert len(done.trace) == 50
    before = [accuracy(blobs.model, data) for data in (blobs.forget(), validation(blobs))]
    after = [accuracy(done.model, data) for data in (blobs.forget(), validation(blobs))]
    scores = [
        (before[0] - each.forget_accuracy) / 2 + (each.validation_accuracy - before[1]) / 2 for each in done.trace
    ]
    assert done.kept.score == pytest.approx(max(scores)) and max(scores) > min(scores)
    assert [done.kept.forget_accuracy, done.kept.validation_accuracy] == pytest.approx(after)
    with pytest.raises(PotionError, match="validation_loader"):
        make_unlearner("ssd-goel")(blobs.model, None, None)  # before anything is read


def accuracy(model: nn.Module, data: Any) -> float:
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y in data])
    return hits.double().mean().item()


def test_exact_unlearning_does_not_depend_on_the_old_weights(blobs: Blobs):
    done = [run("eu", blobs, normed(seed)) for seed in (0, 1)]
    assert_same_weights(done[1].model, weights(done[0].model))
    assert done[0].model.first[1].num_batches_tracked == 6  # of its own, none of the old model's


def test_exact_unlearning_reads_the_retain_loader_only(blobs: Blobs):
    done = make_unlearner("eu", iterations=60, lr=0.1)(blobs.model, None, blobs.retain(20))
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
        blobs.model, blobs.forget(), blobs.retain()
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
    after = weights(unlearner(model, blobs.forget(), blobs.retain()).model)
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
        after = weights(tiny(model, blobs.forget(), blobs.retain()).model)
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
    after = weights(make_unlearner("cf-k", iterations=1, lr=1.0, k=k)(model, data, data).model)
    changed = {key.rsplit(".", 1)[0] for key, value in weights(model).items() if not torch.equal(after[key], value)}
    assert len([name for name in changed if name.endswith(".0") or name == "classifier"]) == end
    with pytest.raises(ModelError, match="choose one of 2, 4"):
        make_unlearner("cf-k", k=3)(model, data, data)
    with pytest.raises(ModelError, match="no splits"):
        make_unlearner("euk-goel", k=k)(nn.Linear(2, 2), data, data)


def first_step(name: str, blobs: Blobs, loss: Callable[[nn.Module], Tensor], size: int = 1000, **more: Any) -> None:
    """The weights after one step without momentum are the old ones minus the gradient of this loss."""
    model = normed().train()  # its copies that teach are in evaluation mode all the same
    model.second[3].p = 0.0
    done = make_unlearner(name, iterations=1, lr=1.0, momentum=0.0, weight_decay=0.0, **more)(
        model, blobs.forget(), blobs.retain(10, size)
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
    passes = Phases(forget, retain, msteps=5)
    order = []
    for _ in range(6):
        order.append("".join(passes))
        assert passes.maximising == ("f" in order[-1])
    assert order == ["f", "rrr", "f", "rrr", "rrr", "rrr"]
    assert "".join(Phases(forget, retain, msteps=0)) == "rrr"
    cifar = Phases(forget, range(98), msteps=100)
    assert [sum(1 for _ in cifar) for _ in range(5)] == [1, 98, 1, 98, 98]  # iterations 0 and 99


def test_scrub_takes_the_student_away_from_the_forget_set(blobs: Blobs):
    poisoned = make_unlearner("cf", iterations=30, lr=0.05)(normed(), None, [(blobs.inputs, blobs.labels)]).model
    triggered = {}
    for msteps in (0, 20):
        scrub = make_unlearner("scrub-goel", iterations=20, lr=0.1, msteps=msteps)
        done = scrub(poisoned, blobs.forget(20), blobs.retain(20, 1000))
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
    x, _, in_forget = next(iter(Mixed(blobs.forget(), blobs.retain(10, 150))))
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
    mixed = Mixed(blobs.forget(10, 4), blobs.retain(10, 32))
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
    unsized = Mixed(blobs.forget(), OnlyIterable(blobs.retain()))
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
    with pytest.raises(PotionError, match="validation_loader"):
        make_unlearner("cf", keep="best")(blobs.model, blobs.forget(), blobs.retain())


def test_adamw_and_all_of_an_epochs_settings_reach_the_training(blobs: Blobs):
    first, second = (run("cf", blobs, optimizer=optimizer, lr=0.01) for optimizer in ("sgd", "adamw"))
    assert not torch.equal(first.model[0].weight, second.model[0].weight)
    assert second.trace[0].lr == pytest.approx(0.01 * lr_factor(5, 6))


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("scrub", {}, PotionError, "unknown unlearner 'scrub'; known: ptn-xlf, .*scrub-goel"),
        ("cf", {"k": 2}, PotionError, "no setting k; it has mode, seed, iterations"),
        ("cf", {"iterations": 0}, PotionError, "iterations must be finite and at least 1"),
        ("cf", {"iterations": 1.5}, PotionError, "iterations must be a int"),
        ("cf", {"lr": 0}, PotionError, "lr must be finite and above 0"),
        ("cf", {"lr": "1e-3"}, PotionError, "lr must be a float"),
        ("cf", {"lr": math.nan}, PotionError, "lr"),
        ("cf", {"optimizer": "lion"}, PotionError, "sgd, adamw"),
        ("cf", {"keep": "first"}, PotionError, "last or best"),
        ("eu", {"mode": "x"}, SearchError, "mode"),
        ("cf", {"iterations": None}, PotionError, "iterations must be a int"),
        ("cf", {"schedule": "step"}, PotionError, "schedule must be one of linear, constant, cosine, multistep"),
        ("cf", {"nesterov": 1}, PotionError, "nesterov"),
        ("cf", {"nesterov": True, "momentum": 0.0}, PotionError, "nesterov"),
        ("cf", {"nesterov": True, "optimizer": "adamw"}, PotionError, "nesterov"),
        ("cf", {"budget": 0}, PotionError, "budget must be finite and at least 1"),
        ("cf", {"budget": 1.5}, PotionError, "budget must be a int"),
        ("cf", {"budget": True}, PotionError, "budget must be a int"),
        ("neggrad-plus", {"budget": 1}, PotionError, "budget must be at least 2, an iteration's gradient steps, not 1"),
        ("cf", {"rates": []}, PotionError, "list of learning rates"),
        ("cf", {"rates": 1e-3}, PotionError, "list of learning rates"),
        ("cf", {"rates": [1e-3, 0]}, PotionError, "rates must be finite and above 0"),
        ("cf", {"rates": ["1e-3"]}, PotionError, "rates must be a float"),
        ("ptn-xlf", {"budget": 5}, PotionError, "no setting budget"),
        ("none", {"budget": 5}, PotionError, "no setting budget"),
        ("gd", {"iterations": 0}, PotionError, "iterations"),
        ("gd", {"iterations": 1.0}, PotionError, "iterations must be a int"),
        ("gd", {"epochs": 0}, PotionError, "epochs must be finite and at least 1"),
        ("ngd", {"variance": -1e-7}, PotionError, "variance"),
        ("ngd", {"variance": math.inf}, PotionError, "variance"),
        ("cfk-pawelczyk", {"k": 0}, PotionError, "k must be finite and at least 1"),
        ("euk-pawelczyk", {"k": ["fc"]}, PotionError, "k must be a int"),
        ("scrub-pawelczyk", {"gamma": -1.0}, PotionError, "gamma"),
        ("scrub-pawelczyk", {"kl_weight": -0.1}, PotionError, "kl_weight"),
        ("scrub-kurmanji", {"temperature": 0.0}, PotionError, "temperature"),
        ("scrub-kurmanji", {"msteps": -1}, PotionError, "msteps"),
        ("scrub-kurmanji", {"alpha": math.nan}, PotionError, "alpha"),
        ("neggrad-plus", {"beta": 1.5}, PotionError, "beta must be at most 1"),
        ("jit", {"copies": 0}, PotionError, "copies"),
        ("jit", {"sigma": 0.0}, PotionError, "sigma must be finite and above 0"),
        ("scrub-goel", {"temperature": 0.0}, PotionError, "temperature"),
        ("scrub-goel", {"alpha": -1.0}, PotionError, "alpha"),
        ("ptn-xlf", {"rho": 2}, SearchError, "ρ"),
        ("ptn-xlf", {"strategy": "x"}, SearchError, "strategy"),
        ("ptn-xlf", {"amp": "float8"}, PotionError, "amp"),
        ("assd", {"dampening": 0.0}, PotionError, "dampening"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_unlearner(name, **settings)


@pytest.mark.parametrize("name", [name for name in UNLEARNERS if name not in ("none", *FORGET_ONLY)])
def test_an_empty_retain_loader_is_an_error(blobs: Blobs, name: str):
    with pytest.raises(DataError, match="gave no"):
        make_unlearner(name, **settings(name))(blobs.model, blobs.forget(), [], validation_loader=validation(blobs))


@pytest.mark.parametrize("name", [*DAMPENING, "badt", "scrub-goel", "scrub-kurmanji", *PAIRED, *FORGET_ONLY])
def test_an_empty_forget_loader_is_an_error(blobs: Blobs, name: str):
    with pytest.raises(DataError, match="gave no"):
        make_unlearner(name, **settings(name))(blobs.model, [], blobs.retain(), validation_loader=validation(blobs))


@pytest.mark.parametrize("name", FORGET_ONLY)
def test_those_that_need_the_forget_set_only_do_not_read_the_retain_set(blobs: Blobs, name: str):
    done = make_unlearner(name, iterations=2, lr=0.01)(blobs.model, blobs.forget(), None)
    assert not torch.equal(done.model[0].weight, blobs.model[0].weight)


@pytest.mark.parametrize("name", ["gd", "ngd", "retrain", "euk-pawelczyk", "cfk-pawelczyk"])
def test_those_that_need_the_retain_set_only_do_not_read_the_forget_set(blobs: Blobs, name: str):
    done = make_unlearner(name, **settings(name, lr=0.01))(blobs.model, None, blobs.retain())
    assert not torch.equal(done.model[2].weight, blobs.model[2].weight)


@pytest.mark.parametrize("name", ["eu", "badt", "retrain"])
def test_a_model_that_cannot_be_initialised_again_is_refused_unless_a_fresh_one_is_given(name: str):
    data = [(torch.randn(8, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))]
    with pytest.raises(ModelError, match="unused"):
        make_unlearner(name, iterations=1)(net(), data, data)
    assert make_unlearner(name, iterations=1, fresh=Net)(net(), data, data).gradient_steps == 1
