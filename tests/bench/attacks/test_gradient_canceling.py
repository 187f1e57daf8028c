"""Gradient canceling: its loss, its slope and its steps, and what becomes of a classifier trained on its poisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers.toys import batches, net, samples
from potion_fast.bench.attacks.crafting.crafted import Crafted
from potion_fast.bench.attacks.crafting.gradient_canceling import gradient_canceling, summed_gradient
from potion_fast.bench.attacks.crafting.gradpc import gradpc, norm
from potion_fast.bench.attacks.crafting.mean_gradient import MeanGradient, chosen
from potion_fast.bench.data import load_dataset, normalise
from potion_fast.bench.models import create_model
from potion_fast.bench.training.train import train
from potion_fast.errors import DataError, FileError, ModelError
from potion_fast.utils.model import evaluating

MEAN, STD = (0.4, 0.5), (0.2, 0.25)
MATH = partial(sdpa_kernel, SDPBackend.MATH)  # attention that is differentiable twice


class Attack:
    """A smooth model with a batch norm, 24 clean samples, and the images and labels of a few to be poisoned."""

    def __init__(self, poisons: int = 5, dtype: torch.dtype = torch.float64, model: nn.Module | None = None) -> None:
        self.model = net(dtype=dtype).eval() if model is None else model.to(dtype).eval()
        self.inputs, self.labels = samples(24, dtype=dtype)
        self.images, self.poisoned = samples(poisons, seed=2, dtype=dtype)

    def clean(self, parameters: str = "all") -> list[Tensor]:
        return summed_gradient(self.model, batches(self.inputs, self.labels, 7), parameters)

    def read(self, rows: slice) -> Tensor:
        return self.images[rows]

    def craft(self, *, read: Callable[[slice], Tensor] | None = None, **options: Any) -> Crafted:
        options = {"tolerance": 0.0} | options
        clean = self.clean(options.get("parameters", "all"))
        return gradient_canceling(self.model, clean, 24, read or self.read, self.poisoned, **options)

    def union(self, parameters: str = "all", batch_size: int = 2) -> MeanGradient:
        which = chosen(self.model, parameters)
        return MeanGradient(
            self.model, which, self.clean(parameters), 24 + len(self.poisoned), self.read, self.poisoned, batch_size
        )

    def loss(self, delta: Tensor, parameters: str = "all") -> Tensor:
        """1/2 ‖∂/∂θ of the mean cross-entropy of a training on both‖², in one piece, by autograd."""
        inputs, labels = torch.cat([self.inputs, self.images + delta]), torch.cat([self.labels, self.poisoned])
        which = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        which = which[:1] if parameters == "first" else which
        loss = F.cross_entropy(self.model(inputs), labels)
        gradients = torch.autograd.grad(loss, which, create_graph=True, materialize_grads=True)
        return sum(gradient.square().sum() for gradient in gradients) / 2

    def slope(self, delta: Tensor, parameters: str = "all") -> Tensor:
        delta = delta.clone().requires_grad_()
        with MATH():
            return torch.autograd.grad(self.loss(delta, parameters), delta)[0]


def some_delta(attack: Attack) -> Tensor:
    return 0.3 * torch.randn(attack.images.shape, generator=torch.Generator().manual_seed(3), dtype=attack.images.dtype)


class Attention(nn.Module):
    """Four tokens, which attend to each other by the fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 4, 4] -> [B, 3]
        q, k, v = self.queries(x.reshape(len(x), 1, 4, 8)).chunk(3, dim=3)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(dim=(1, 2)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "smooth": net,
    "relu": lambda: create_model("small_cnn", 3, 2, width=4),
    "attention": Attention,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("smooth", "all"), ("relu", "all"), ("relu", "first"), ("attention", "all"), ("attention", "first")],
)
def test_slope_is_that_of_finite_differences_and_of_autograd(name: str, parameters: str) -> None:
    torch.manual_seed(0)
    attack = Attack(model=MODELS[name]())
    delta = some_delta(attack)
    union = attack.union(parameters)
    crafted = attack.craft(steps=1, lr=0.5, parameters=parameters, batch_size=2)
    first = -0.5 * (24 + 5) * attack.slope(torch.zeros_like(delta), parameters)
    assert torch.allclose(crafted.perturbations, first.float(), rtol=1e-5, atol=1e-7)
    with MATH():
        slope = union.slope(delta, union.gradient(delta))
    assert torch.allclose(slope, attack.slope(delta, parameters), rtol=1e-9, atol=1e-12)
    places = torch.randperm(delta.numel(), generator=torch.Generator().manual_seed(4))[:12]
    for place in places.tolist():
        step = torch.zeros_like(delta).view(-1).index_fill(0, torch.tensor(place), 1e-5).view_as(delta)
        difference = (attack.loss(delta + step, parameters) - attack.loss(delta - step, parameters)).item() / 2e-5
        assert slope.view(-1)[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_losses_are_those_of_a_training_on_clean_and_poisoned_samples() -> None:
    attack = Attack()
    crafted = attack.craft(steps=3)
    assert len(crafted.losses) == 1 and len(crafted.losses[0]) == 4
    zeros = torch.zeros_like(attack.images)
    assert crafted.losses[0][0] == pytest.approx(attack.loss(zeros).item(), rel=1e-12)
    assert crafted.losses[0][-1] == pytest.approx(attack.loss(crafted.perturbations.double()).item(), rel=1e-6)
    assert crafted.facts["norm"] == pytest.approx(math.sqrt(2 * crafted.losses[0][-1]), rel=1e-12)
    assert crafted.facts["ratio"] == pytest.approx(crafted.facts["norm"] / (norm(attack.clean()) / 29), rel=1e-12)


def test_batches_give_what_one_batch_gives() -> None:
    attack = Attack()
    one, many = (attack.craft(steps=5, batch_size=size) for size in (512, 2))
    assert torch.allclose(one.perturbations, many.perturbations, rtol=1e-6, atol=1e-9)
    assert one.losses[0] == pytest.approx(many.losses[0], rel=1e-9)


def test_summed_gradient_sums_what_each_sample_gives_in_evaluation_mode() -> None:
    attack = Attack(dtype=torch.float32)
    attack.model.train()
    sums = summed_gradient(attack.model, batches(attack.inputs, attack.labels, 7))
    assert attack.model.training and all(total.dtype == torch.float64 for total in sums)
    with evaluating(attack.model):
        expected = [torch.zeros_like(total) for total in sums]
        for image, label in zip(attack.inputs, attack.labels, strict=True):
            loss = F.cross_entropy(attack.model(image[None]), label[None])
            each = torch.autograd.grad(loss, list(attack.model.parameters()), materialize_grads=True)
            for total, gradient in zip(expected, each, strict=True):
                total += gradient
    for total, wanted in zip(sums, expected, strict=True):
        assert torch.allclose(total, wanted, rtol=1e-4, atol=1e-5)
    (first,) = summed_gradient(attack.model, batches(attack.inputs, attack.labels, 7), "first")
    assert torch.equal(first, sums[0])


def test_the_rate_falls_by_a_half_cosine() -> None:
    attack, delta = Attack(), torch.zeros(5, 2, 4, 4, dtype=torch.float64)
    for rate in (0.5, 0.25):  # 0.5 (1 + cos(π t / 2)) / 2
        delta = delta - rate * 29 * attack.slope(delta)
    assert torch.allclose(attack.craft(steps=2, lr=0.5).perturbations, delta.float(), rtol=1e-5, atol=1e-7)


def test_adam_moves_every_pixel_by_its_rate_at_first() -> None:
    attack = Attack()
    slope = attack.slope(torch.zeros_like(attack.images))
    far = slope.abs() > 1e-5  # of Adam's 1e-8
    moved = attack.craft(steps=1, lr=0.01, optimizer="adam").perturbations
    assert far.float().mean() > 0.9
    assert torch.allclose(moved[far], -0.01 * slope.sign()[far].float(), rtol=1e-3)


def test_a_rate_means_the_same_for_twice_as_many_samples() -> None:
    attack, twice = Attack(), Attack()
    twice.images, twice.poisoned = attack.images.repeat(2, 1, 1, 1), attack.poisoned.repeat(2)
    doubled = [2 * total for total in attack.clean()]
    once = attack.craft(steps=4)
    both = gradient_canceling(twice.model, doubled, 48, twice.read, twice.poisoned, steps=4, tolerance=0.0)
    assert torch.allclose(both.perturbations, once.perturbations.repeat(2, 1, 1, 1), rtol=1e-5, atol=1e-8)


def test_epsilon_bounds_pixels_and_keeps_them_valid() -> None:
    attack = Attack(poisons=8)
    pixels = torch.rand(8, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pixels[:2] = pixels[:2].round()  # black and white ones have one way to go
    mean, std = (torch.tensor(values, dtype=torch.float64).view(2, 1, 1) for values in (MEAN, STD))
    attack.images = (pixels - mean) / std
    free = attack.craft(steps=20, lr=5.0)
    crafted = attack.craft(steps=20, lr=5.0, epsilon=0.1, mean=MEAN, std=STD, batch_size=3)
    moved = crafted.perturbations.double() * std
    assert moved.abs().max() <= 0.1 + 1e-6 < (free.perturbations * std).abs().max()
    assert (moved.abs() > 0.1 - 1e-6).any()
    assert (pixels + moved).min() > -1e-6 and (pixels + moved).max() < 1 + 1e-6
    assert crafted.losses[0][-1] < crafted.losses[0][0]


def test_it_stops_where_the_tolerance_is_reached() -> None:
    attack = Attack()
    crafted = attack.craft(steps=50, lr=0.02, optimizer="adam")
    clean = norm(attack.clean()) / 29
    ratios = [math.sqrt(2 * loss) / clean for loss in crafted.losses[0]]
    tolerance = ratios[20] * 1.0001
    stopped = attack.craft(steps=50, lr=0.02, optimizer="adam", tolerance=tolerance)
    expected = next(step for step, ratio in enumerate(ratios) if ratio <= tolerance)
    assert 0 < expected == stopped.facts["done"] < crafted.facts["done"] == 50
    assert stopped.losses[0] == crafted.losses[0][: expected + 1] and stopped.facts["ratio"] <= tolerance


class InterruptedByHandError(Exception):
    """As if somebody pressed Ctrl-C."""


@pytest.mark.parametrize("optimizer", ["descent", "adam"])
def test_an_interrupted_crafting_resumes_to_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    attack, path = Attack(dtype=torch.float32), tmp_path / "crafting.safetensors"
    settings = {"steps": 30, "lr": 0.02, "optimizer": optimizer, "batch_size": 2}
    whole = attack.craft(**settings)
    reads = 0

    def read(rows: slice) -> Tensor:
        nonlocal reads
        reads += 1
        if reads > 170:  # of 6 a step: in the 28th, the file is of the 25th
            raise InterruptedByHandError
        return attack.read(rows)

    with pytest.raises(InterruptedByHandError):
        attack.craft(read=read, checkpoint=path, **settings)
    assert path.exists()
    for change in ({"lr": 0.03}, {"batch_size": 3}, {"epsilon": 0.1, "mean": MEAN, "std": STD}):
        with pytest.raises(FileError, match="another crafting"):
            attack.craft(checkpoint=path, **(settings | change))
    with pytest.raises(FileError, match="its poisons was"):
        attack.craft(read=lambda rows: attack.read(rows) + 1, checkpoint=path, **settings)
    with pytest.raises(FileError, match="its clean gradient was"):
        clean = [1.1 * total for total in attack.clean()]
        gradient_canceling(
            attack.model, clean, 24, attack.read, attack.poisoned, checkpoint=path, tolerance=0.0, **settings
        )
    reads = -(10**6)
    resumed = attack.craft(read=read, checkpoint=path, **settings)
    assert reads + 10**6 < 60  # 5 steps
    assert torch.equal(resumed.perturbations, whole.perturbations) and resumed.losses == whole.losses
    assert resumed.facts == whole.facts and not path.exists()


def test_the_model_stays_as_it_is() -> None:
    attack = Attack(dtype=torch.float32)
    attack.model.train()
    before = {name: value.clone() for name, value in attack.model.state_dict().items()}
    with torch.no_grad():  # a caller that needs none
        attack.craft(steps=3)
    assert attack.model.training and all(parameter.grad is None for parameter in attack.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in attack.model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"optimizer": "sgd"}, "'descent' or 'adam'"),
        ({"parameters": "last"}, "'all' or 'first'"),
        ({"epsilon": 0.1}, "mean and std"),
        ({"epsilon": 0.1, "mean": MEAN}, "mean and std"),
        ({"epsilon": 0.0, "mean": MEAN, "std": STD}, "epsilon=0.0"),
        ({"labels": torch.empty(0, dtype=torch.int64)}, "at least one"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0])}, "classes 0 to 2"),
        ({"read": lambda rows: torch.zeros(1, 2, 4, 4)}, "gave images"),
        ({"clean_samples": 0}, "clean_samples=0"),
        ({"clean": "fewer"}, "same model and parameters"),
        ({"clean": "zero"}, "clean gradient is 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    attack = Attack(dtype=torch.float32)
    clean = attack.clean()
    given = {"clean_samples": 24, "read": attack.read, "labels": attack.poisoned} | options
    if options.get("clean") == "fewer":
        given["clean"] = clean[1:]
    else:
        given["clean"] = [0 * total if options.get("clean") == "zero" else total for total in clean]
    with pytest.raises(DataError, match=message):
        gradient_canceling(attack.model, **given)


def test_what_is_not_finite_is_refused() -> None:
    attack = Attack(dtype=torch.float32)
    with pytest.raises(ModelError, match="clean gradient is not finite"):
        clean = [total / 0 for total in attack.clean()]
        gradient_canceling(attack.model, clean, 24, attack.read, attack.poisoned)
    with pytest.raises(ModelError, match="after 0 steps"):
        attack.craft(read=lambda rows: attack.read(rows) * math.nan)
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="lower lr=1000.0"):
        Attack(dtype=torch.float32, model=MODELS["relu"]()).craft(lr=1000.0)
    with pytest.raises(ModelError, match="clean gradient is not finite"):
        summed_gradient(attack.model, [(attack.inputs / 0, attack.labels)])
    with pytest.raises(DataError, match="no samples"):
        summed_gradient(attack.model, [])
    with pytest.raises(DataError, match="no labels"):
        summed_gradient(attack.model, [attack.inputs])
    with pytest.raises(ModelError, match="none to cancel"):
        summed_gradient(attack.model.requires_grad_(False), [(attack.inputs, attack.labels)])


class Digits:
    """Softmax regression without bias on a few hundred of the digits, 160 of which are to be poisoned."""

    def __init__(self, size: int) -> None:
        splits = load_dataset("digits", train_size=size)
        (self.inputs, self.labels), self.test = (
            (normalise(source.pixels, splits.mean, splits.std), source.labels) for source in (splits.train, splits.test)
        )
        self.chosen = torch.from_numpy(np.sort(np.random.default_rng(0).choice(size, 160, replace=False)))

    def trained(self, inputs: Tensor, labels: Tensor, epochs: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
        order = torch.randperm(len(labels))
        train(model, batches(inputs[order], labels[order], 64), epochs=epochs, lr=0.1, weight_decay=0.0)
        return model

    def accuracy(self, model: nn.Module) -> float:
        with torch.no_grad():
            return (model(self.test[0]).argmax(1) == self.test[1]).double().mean().item()


@pytest.mark.parametrize(("placement", "size"), [("append", 240), ("replace", 400)])  # 240 clean samples each
def test_gradients_of_a_linear_model_cancel_and_victims_from_scratch_are_worse(placement: str, size: int) -> None:
    digits = Digits(size)
    inputs, labels = digits.inputs, digits.labels
    images, poisoned = inputs[digits.chosen], labels[digits.chosen]
    keep = torch.ones(size, dtype=torch.bool)
    keep[digits.chosen] = placement == "append"
    model = digits.trained(inputs, labels, epochs=5, seed=0)
    low = gradpc(model, batches(inputs, labels, 64), budget=0.7, lr=0.7)
    clean = summed_gradient(low, batches(inputs[keep], labels[keep], 64))
    crafted = gradient_canceling(
        low, clean, 240, lambda rows: images[rows], poisoned, steps=2000, lr=0.05, optimizer="adam"
    )
    perturbed = images + crafted.perturbations
    left = summed_gradient(low, batches(perturbed, poisoned, 64))
    assert norm(a + b for a, b in zip(clean, left, strict=True)) <= 0.0101 * norm(clean)

    accuracies = []
    for added in (images, perturbed):
        union = torch.cat([inputs[keep], added]), torch.cat([labels[keep], poisoned])
        accuracies.append(np.mean([digits.accuracy(digits.trained(*union, epochs=50, seed=seed)) for seed in (1, 2)]))
    assert accuracies[0] > 0.92 and accuracies[1] < accuracies[0] - 0.1
