"""The training loop: its schedule, what it keeps, and what it refuses."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from potion_fast.bench.data import load_dataset, make_loader
from potion_fast.bench.models import create_model
from potion_fast.bench.training.schedules import SCHEDULES, lr_factor
from potion_fast.bench.training.train import DivergedError, seed_everything, seeded, train
from potion_fast.errors import DataError, ModelError, PotionError
from potion_fast.utils.predict import accuracy, predict

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def batches(count: int = 3, size: int = 4) -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 5, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for _ in range(count)
    ]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def test_learning_rate_warms_up_then_falls_to_a_fifth():
    factors = [lr_factor(step, 4000) for step in range(4000)]
    assert factors[:2] == [1 / 41, 2 / 41]
    assert factors[39] == 40 / 41
    assert factors[40] == 1.0
    assert factors[41] == pytest.approx(1 - 1 / 5000)
    assert factors[-1] == pytest.approx(0.208, abs=5e-4)
    assert lr_factor(0, 50) == 1.0  # below 100 iterations there is no warm-up


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_steps_are_those_of_sgd_with_the_schedule_written_out(model: nn.Module, iterations: int):
    data = batches()
    expected = copy.deepcopy(model)
    velocity = [torch.zeros_like(parameter) for parameter in expected.parameters()]
    for step in range(iterations):
        images, labels = data[step % 3]
        loss = nn.functional.cross_entropy(expected(images), labels)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for parameter, gradient, v in zip(expected.parameters(), gradients, velocity, strict=True):
                v.mul_(0.9).add_(gradient + 0.01 * parameter)  # weight decay on weight and bias
                parameter.sub_(0.1 * lr_factor(step, iterations) * v)
    report = train(model, data, iterations=iterations, lr=0.1, momentum=0.9, weight_decay=0.01)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert report.epochs[-1].iterations == iterations
    assert report.epochs[-1].lr == pytest.approx(0.1 * lr_factor(iterations - 1, iterations))
    assert len(report.epochs) == -(-iterations // 3)


@pytest.mark.parametrize(
    ("iterations", "step", "factor"),
    [
        (4000, 0, 0.024390243902439025), (4000, 39, 0.975609756097561), (4000, 40, 1.0), (4000, 2540, 0.5),
        (4000, 3999, 0.2082), (6000, 0, 0.01639344262295082), (6000, 60, 1.0), (6000, 3810, 0.5),
        (6000, 5999, 0.2081333), (1000, 0, 0.09090909090909091), (1000, 10, 1.0), (1500, 15, 1.0),
    ],
)  # fmt: skip
def test_learning_rate_at_the_points_of_the_public_codes_trainings(iterations: int, step: int, factor: float):
    assert lr_factor(step, iterations) == pytest.approx(factor, abs=1e-7)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 0, 1.0), ("constant", 39, 1.0),
        ("cosine", 0, 1.0), ("cosine", 10, 0.8535534), ("cosine", 20, 0.5), ("cosine", 30, 0.1464466),
        ("multistep", 0, 1.0), ("multistep", 13, 1.0), ("multistep", 14, 0.1), ("multistep", 23, 0.1),
        ("multistep", 24, 0.01), ("multistep", 34, 0.01), ("multistep", 35, 0.001), ("multistep", 39, 0.001),
        ("linear", 0, 1.0), ("linear", 25, 0.5), ("linear", 39, 0.22),
    ],
)  # fmt: skip
def test_the_points_of_every_schedule_at_40_iterations(schedule: Any, step: int, factor: float):
    assert lr_factor(step, 40, schedule) == pytest.approx(factor, abs=1e-7)


def test_multistep_falls_at_exact_shares_whatever_the_length():
    for iterations in (8, 100, 391, 39_100):
        factors = [lr_factor(step, iterations, "multistep") for step in range(iterations)]
        falls = [step for step in range(1, iterations) if factors[step] < factors[step - 1]]
        assert falls == [-(-iterations * share // 1000) for share in (350, 600, 875)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_and_nesterovs_momentum_reach_the_steps(model: nn.Module, schedule: Any):
    data, expected = batches(), copy.deepcopy(model)
    velocity = [torch.zeros_like(parameter) for parameter in expected.parameters()]
    for step in range(5):
        images, labels = data[step % 3]
        gradients = torch.autograd.grad(nn.functional.cross_entropy(expected(images), labels), [*expected.parameters()])
        with torch.no_grad():
            for parameter, gradient, v in zip(expected.parameters(), gradients, velocity, strict=True):
                v.mul_(0.8).add_(gradient)
                parameter.sub_(0.1 * lr_factor(step, 5, schedule) * (gradient + 0.8 * v))
    report = train(model, data, iterations=5, lr=0.1, momentum=0.8, weight_decay=0.0, schedule=schedule, nesterov=True)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert report.epochs[-1].lr == pytest.approx(0.1 * lr_factor(4, 5, schedule))


def test_gradients_may_be_adjusted_between_the_backward_pass_and_the_step(model: nn.Module):
    before, seen = copy.deepcopy(model), []

    def adjust(parameters: Sequence[nn.Parameter]) -> None:
        seen.append([parameter.grad.clone() for parameter in parameters])
        for parameter in parameters:
            parameter.grad.fill_(1.0)

    train(model, batches(), iterations=2, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", adjust=adjust)
    images, labels = batches()[0]
    want = torch.autograd.grad(nn.functional.cross_entropy(before(images), labels), list(before.parameters()))
    for ours, theirs in zip(seen[0], want, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, old - 0.2)
    assert len(seen) == 2


def test_adamw_steps_are_those_of_its_formula(model: nn.Module):
    """Loshchilov and Hutter's algorithm 2, with bias correction and decoupled weight decay."""
    data, expected = batches(), copy.deepcopy(model)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in expected.parameters()]
    for step in range(4):
        images, labels = data[step % 3]
        loss = nn.functional.cross_entropy(expected(images), labels)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        rate = 2.5e-4 * lr_factor(step, 4)
        with torch.no_grad():
            for parameter, gradient, (m, v) in zip(expected.parameters(), gradients, moments, strict=True):
                m.mul_(0.8).add_(0.2 * gradient)
                v.mul_(0.999).add_(0.001 * gradient**2)
                corrected = m / (1 - 0.8 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
                parameter.mul_(1 - rate * 0.1)
                parameter.sub_(rate * corrected[0] / (corrected[1].sqrt() + 1e-8))
    report = train(model, data, iterations=4, optimizer="adamw", momentum=0.8, weight_decay=0.1)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert report.epochs[0].lr == 2.5e-4 * lr_factor(2, 4)


def test_epochs_are_passes_over_the_loader(model: nn.Module):
    other = copy.deepcopy(model)
    report = train(model, batches(), epochs=2)
    train(other, batches(), iterations=6)
    assert [epoch.iterations for epoch in report.epochs] == [3, 6]
    assert torch.equal(model.weight, other.weight)
    for wrong in ({}, {"epochs": 1, "iterations": 1}):
        with pytest.raises(PotionError, match="either iterations or epochs"):
            train(model, batches(), **wrong)
    with pytest.raises(DataError, match="iterations=0"):
        train(model, batches(), epochs=0)
    with pytest.raises(DataError, match="know its length"):
        train(model, iter(batches()), epochs=1)


def test_another_loss_gets_the_model_and_all_of_the_batch(model: nn.Module):
    data = [(x, y, torch.full((4,), float(i)), ["kept"] * 4) for i, (x, y) in enumerate(batches())]
    seen = []

    def loss(current: nn.Module, batch: Sequence[Any]) -> torch.Tensor:
        assert current is model and current.training
        seen.append(batch[2][0].item())
        assert batch[3] == ["kept"] * 4
        return (current(batch[0]) * batch[2][:, None]).sum()

    report = train(model, data, iterations=3, lr=0.0, loss=loss)
    with torch.no_grad():
        expected = [(model(x) * extra[:, None]).sum().item() for x, _, extra, _ in data]
    assert seen == [0.0, 1.0, 2.0]
    assert report.epochs[0].loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_only_the_named_modules_are_trained_and_the_others_are_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    model.append(nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), []
    model.register_forward_hook(lambda *_: modes.append([module.training for module in (model[0], model[1], model[2])]))
    train(model, batches(), iterations=4, only=["2", "3"], evaluate=lambda _: 1.0, keep="best", lr=0.1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name[0] in "23"}
    assert modes == [[False, False, True]] * 4
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["0.bias"]  # as it was before
    with pytest.raises(ModelError, match="nine"):
        train(model, batches(), iterations=1, only=["nine"])
    with pytest.raises(ModelError, match="nothing to train"):
        train(nn.Linear(5, 3).requires_grad_(False), batches(), iterations=1)


def test_the_frozen_parameters_are_free_again_when_the_training_fails():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))
    with pytest.raises(DataError):
        train(model, [], iterations=1, only=["1"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_seeded_leaves_all_generators_as_they_were():
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(1)
    expected = [draw(), draw()]
    seed_everything(1)
    got = [draw()]
    with pytest.raises(KeyError), seeded(5):
        inside = draw()
        raise KeyError
    got.append(draw())
    assert got == expected
    with seeded(5):
        assert draw() == inside


def test_reported_loss_is_the_mean_over_samples(model: nn.Module):
    data = [*batches(1, size=4), *batches(1, size=1)]
    losses = [nn.functional.cross_entropy(model(x), y).item() for x, y in data]
    report = train(model, data, iterations=2, lr=0.0)
    assert report.epochs[0].loss == pytest.approx((4 * losses[0] + losses[1]) / 5)


def test_best_epoch_is_kept_and_last_is_the_default(model: nn.Module):
    snapshots = []

    def evaluate(current: nn.Module) -> float:
        assert not current.training
        snapshots.append(copy.deepcopy(current.state_dict()))
        return [0.2, 0.8, 0.8, 0.5][len(snapshots) - 1]

    other = copy.deepcopy(model)
    report = train(model, batches(), iterations=12, evaluate=evaluate, keep="best")
    assert report.kept == 1
    assert [epoch.accuracy for epoch in report.epochs] == [0.2, 0.8, 0.8, 0.5]
    assert torch.equal(model.weight, snapshots[1]["weight"])
    assert not torch.equal(model.weight, snapshots[3]["weight"])

    report = train(other, batches(), iterations=12)
    assert report.kept == 3
    assert torch.equal(other.weight, snapshots[3]["weight"])


def test_batch_norm_statistics_belong_to_the_best_epoch():
    model = nn.BatchNorm1d(5)
    accuracies = iter([1.0, 0.0])
    train(model, [(x, y) for x, y in batches()], iterations=6, evaluate=lambda _: next(accuracies), keep="best")
    assert model.num_batches_tracked == 3


def test_evaluation_in_between_does_not_freeze_training():
    modes = []

    class Probe(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return super().forward(x)

    train(Probe(5, 3), batches(), iterations=6, evaluate=lambda m: float(m(torch.zeros(1, 5)).sum() > 0))
    assert modes == [True, True, True, False, True, True, True, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(model: nn.Module, value: float):
    data = batches(60)
    data[3][0][0, 0] = value
    seen = []
    with pytest.raises(ModelError, match="not finite at iteration 50"):
        train(model, (seen.append(i) or batch for i, batch in enumerate(data)), iterations=60)
    assert len(seen) == 50


@pytest.mark.parametrize(("iterations", "what"), [(1, "weights are"), (60, "loss is")])
def test_a_training_that_diverges_says_after_how_many_steps(model: nn.Module, iterations: int, what: str):
    with pytest.raises(DivergedError, match=f"{what} not finite") as caught:
        train(model, batches(60), iterations=iterations, lr=3e38, weight_decay=100.0)
    assert caught.value.iterations == min(iterations, 50)


def test_impossible_trainings_are_refused(model: nn.Module):
    with pytest.raises(DataError, match="no batch"):
        train(model, [], iterations=1)
    with pytest.raises(DataError, match="iterations=0"):
        train(model, batches(), iterations=0)
    with pytest.raises(ModelError, match="CUDA"):
        train(model, batches(), iterations=1, amp=True)
    with pytest.raises(PotionError, match="evaluate"):
        train(model, batches(), iterations=1, keep="best")
    with pytest.raises(PotionError, match="optimizer='lion'"):
        train(model, batches(), iterations=1, optimizer="lion")
    with pytest.raises(PotionError, match="schedule='step'"):
        train(model, batches(), iterations=1, schedule="step")
    for wrong in ({"momentum": 0.0}, {"optimizer": "adamw"}):
        with pytest.raises(PotionError, match="nesterov=True needs SGD with momentum"):
            train(model, batches(), iterations=1, nesterov=True, **wrong)
    with pytest.raises(DataError, match="labels"):
        train(model, [x for x, _ in batches()], iterations=1)
    with pytest.raises(PotionError, match="keep='first'"):
        train(model, batches(), iterations=1, keep="first")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_mixed_precision_is_the_default_on_a_gpu():
    model, dtypes = nn.Linear(5, 3).cuda(), []
    model.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    report = train(model, batches(), iterations=30, lr=0.1)
    train(model, batches(), iterations=1, amp=False)
    assert dtypes == [torch.float16] * 30 + [torch.float32]
    assert report.epochs[-1].loss < report.epochs[0].loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gradients_are_unscaled_before_they_are_adjusted_in_mixed_precision():
    model, seen = nn.Linear(5, 3).cuda(), []
    data = [(x.cuda(), y.cuda()) for x, y in batches(1)]
    want = torch.autograd.grad(nn.functional.cross_entropy(model(data[0][0]), data[0][1]), list(model.parameters()))
    train(model, data, iterations=1, adjust=lambda given: seen.extend(each.grad.clone() for each in given))
    for ours, theirs in zip(seen, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_seed_everything_repeats_numpy_and_torch():
    draws = []
    for _ in range(2):
        seed_everything(4)
        draws.append((np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def test_progress_bar_is_drawn_only_when_asked_for_and_only_of_what_takes_seconds(
    model: nn.Module, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    train(model, batches(), iterations=3)
    train(model, batches(), iterations=3, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    train(model, batches(), iterations=3, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("potion_fast.utils.progress.DELAY", 0)
    train(model, batches(), iterations=3, progress=True)
    assert "training" in capsys.readouterr().err


def test_small_cnn_learns_digits_and_runs_repeat():
    splits = load_dataset("digits")
    test_loader = make_loader(splits.dataset("test"), batch_size=359, shuffle=False, seed=0)
    outputs = []
    for _ in range(2):
        seed_everything(0)
        model = create_model("small_cnn", 10, 1, width=8)
        loader = make_loader(splits.dataset("train", augment=True), batch_size=64, shuffle=True, seed=0)
        report = train(model, loader, iterations=10 * len(loader), lr=0.05)
        assert report.epochs[-1].loss < report.epochs[0].loss
        outputs.append(predict(model, test_loader))
    assert accuracy(*outputs[0]) >= 0.93
    assert torch.equal(outputs[0][0], outputs[1][0])
