"""Poisons for a linear classifier, crafted in the space of its features: a feature is a channel of one pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import DataError
from ..attacks.crafting.gradient_canceling import gradient_canceling, summed_gradient
from ..attacks.crafting.gradient_matching import gradient_matching
from ..attacks.crafting.gradpc import gradpc
from .features import Features
from .logistic import Array, predicted

GRADPC_BATCH, BATCH = 64, 512  # samples; 64 is that of GradPC's public code
MATCHING_LR = 1 / 3  # of the mean radius a step of gradient matching may be: about what it is for CIFAR-10's pixels


@dataclass(frozen=True)
class Poisoned:
    """S_corr as a change of S, and what is known of the attack.

    Attributes:
        rows: int64 [P] of S that are poisoned, in random order.
        inputs: float64 [P, d] that stand there in S_corr.
        facts: plain values.
        target: row of the test samples that a targeted attack is for, and the class it is to be put into.
    """

    rows: NDArray[np.int64]
    inputs: Array
    facts: dict[str, Any] = field(default_factory=dict)
    target: tuple[int, int] | None = None


def random_clean(features: Features, count: int, rng: np.random.Generator) -> Poisoned:
    """S_rand: samples that stay what they are."""
    rows = rng.permutation(len(features.labels))[:count]
    return Poisoned(rows, features.train[rows])


def indiscriminate(
    features: Features,
    theta: Array,  # [C, d + 1], of the clean samples
    count: int,
    rng: np.random.Generator,
    *,
    weight_decay: float,
    budget: float,
    steps: int,
    lr: float,
    optimizer: Literal["descent", "adam"],
    seed: int,
) -> Poisoned:
    """Gradient canceling (Pawelczyk et al., algorithm 2).

    Random samples are moved, without a bound, until GradPC's weights are where training comes to rest. The decay's
    gradient is added to the clean ones, as it is part of what is minimised.
    """
    rows = rng.permutation(len(features.labels))[:count]
    clean = np.setdiff1d(np.arange(len(features.labels)), rows)
    batches = _batches(features, rng.permutation(len(features.labels)), GRADPC_BATCH)
    low = gradpc(_classifier(theta), batches, budget=budget, seed=seed)
    sums = summed_gradient(low, _batches(features, clean, BATCH))
    decayed = [
        total + weight_decay * len(features.labels) * parameter.detach()
        for total, parameter in zip(sums, low.parameters(), strict=True)
    ]
    labels = torch.from_numpy(features.labels[rows])
    how: dict[str, Any] = {"steps": steps, "lr": lr, "optimizer": optimizer}
    crafted = gradient_canceling(low, decayed, len(clean), _reader(features, rows), labels, **how)
    facts = {"aimed_at_accuracy": _accuracy(low, features), **crafted.facts}  # of GradPC's weights
    return _poisoned(features, rows, crafted.perturbations, facts)


def targeted(
    features: Features,
    theta: Array,  # [C, d + 1], of the clean samples
    count: int,
    rng: np.random.Generator,
    *,
    epsilon: float,
    steps: int,
    restarts: int,
    seed: int,
) -> Poisoned:
    """Gradient matching (Pawelczyk et al., algorithm 1).

    Samples of one class are moved so that a test sample of another, one that the clean classifier gets right, is put
    into it. Features have no bounds as pixels do. The range of each over the training samples is used in place of [0,
    1]: no feature leaves it, and `epsilon` is a share of it.

    The class must have `count` samples.

    Raises:
        DataError: no test sample of another one is classified right.
    """
    intended, *others = rng.permutation(features.classes).tolist()
    right = predicted(theta, features.test) == features.test_labels
    victims = [kind for kind in others if (right & (features.test_labels == kind)).any()]
    if not victims:
        raise DataError(f"only test samples of class {intended} are classified right; there is no target")
    target = int(rng.choice(np.flatnonzero(right & (features.test_labels == victims[0]))))
    rows = rng.permutation(np.flatnonzero(features.labels == intended))[:count]

    low, high = features.train.min(axis=0), features.train.max(axis=0)
    crafted = gradient_matching(
        _classifier(theta),
        _reader(features, rows),
        torch.from_numpy(features.labels[rows]),
        _as_images(features.test[[target]]),
        torch.tensor([intended]),
        epsilon=epsilon,
        mean=(-low / (high - low)).tolist(),  # (0 - mean) / std is `low`, (1 - mean) / std is `high`
        std=(1 / (high - low)).tolist(),
        restarts=restarts,
        steps=steps,
        lr=MATCHING_LR * epsilon * float((high - low).mean()),
        augment=False,
        seed=seed,
    )
    facts = {"target": target, "target_class": victims[0], "intended_class": intended, **crafted.facts}
    return _poisoned(features, rows, crafted.perturbations, facts, (target, intended))


def _poisoned(
    features: Features,
    rows: NDArray[np.int64],
    perturbations: Tensor,  # [P, d, 1, 1]
    facts: dict[str, Any],
    target: tuple[int, int] | None = None,
) -> Poisoned:
    return Poisoned(rows, features.train[rows] + perturbations.flatten(1).double().numpy(), facts, target)


def _accuracy(model: nn.Module, features: Features) -> float:
    """On the test samples."""
    with torch.inference_mode():
        guesses = model(_as_images(features.test)).argmax(1).numpy()
    return float((guesses == features.test_labels).mean())


def _classifier(theta: Array) -> nn.Module:
    """Images [B, d, 1, 1] -> logits [B, C], float64."""
    linear = nn.Linear(theta.shape[1] - 1, len(theta), dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(theta[:, :-1]))
        linear.bias.copy_(torch.from_numpy(theta[:, -1]))
    return nn.Sequential(nn.Flatten(), linear)


def _as_images(inputs: Array) -> Tensor:  # [B, d, 1, 1]
    return torch.from_numpy(inputs)[:, :, None, None]


def _reader(features: Features, rows: NDArray[np.int64]) -> Callable[[slice], Tensor]:
    return lambda places: _as_images(features.train[rows[places]])


def _batches(features: Features, rows: NDArray[np.int64], size: int) -> list[tuple[Tensor, Tensor]]:
    """Images and labels of these samples, in this order."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [(_as_images(features.train[part]), torch.from_numpy(features.labels[part])) for part in parts]
