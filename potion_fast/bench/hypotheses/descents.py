"""The descents of figure 5: samples left out, the shift that this asks for, and gradient descent on those that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .linear_regression import Array, NormalEquations, SyntheticSet, cosine

KINDS = ("poison", "random")


@dataclass(frozen=True)
class Removal:
    """Samples that are to be unlearned, and what that means for θ.

    Attributes:
        kept: rows of the synthetic set that stay.
        rest: their normal equations.
        start: θ(S_corr) [d].
        end: θ of those that stay [d].
        facts: plain values.
    """

    seed: int
    kind: str
    kept: NDArray[np.int64]
    rest: NormalEquations
    start: Array
    end: Array
    facts: dict[str, Any]

    @property
    def shift(self) -> Array:  # [d]
        """The shift v = θ(S_corr) - θ(S_corr without what is unlearned)."""
        return self.start - self.end

    @property
    def l1(self) -> float:
        """L1 norm of v."""
        return float(np.abs(self.shift).sum())


@dataclass(frozen=True)
class DescentStep:
    """A step of the descent from θ(S_corr), a mini-batch of the samples that stay.

    Attributes:
        batch_cosine: of v and the gradient of the batch's loss, g_t.
        full_cosine: of v and the gradient of all these samples' loss, at the same θ: without the noise of drawing a
            batch.
    """

    seed: int
    kind: str
    step: int
    batch_cosine: float
    full_cosine: float


def left_out(
    data: SyntheticSet,
    clean: NormalEquations,
    theta: Array,  # [d], of all samples
    removed: int,
    weight_decay: float,
    seed: int,
    rng: np.random.Generator,
) -> Removal:
    """S_rand: so many samples of the second half; of one generator's, the first are among any larger number of them."""
    rows = data.half + rng.permutation(len(data.labels) - data.half)[:removed]
    rest = clean - NormalEquations.of(data.inputs[rows], data.labels[rows])
    kept = np.setdiff1d(np.arange(len(data.labels)), rows)
    return Removal(seed, "random", kept, rest, theta, rest.minimiser(weight_decay), {})


def equalising(shift: Callable[[int], float], aim: float, most: int) -> int:
    """The fewest samples from 1 to `most` whose L1 shift reaches `aim`; `most` where none does. By bisection."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shift(middle) >= aim else (middle + 1, high)
    return low


def descend(
    data: SyntheticSet,
    removal: Removal,
    weight_decay: float,
    steps: int,
    lr: float,
    batch_size: int,
    rng: np.random.Generator,
) -> list[DescentStep]:
    """Gradient descent on the loss of mini-batches, drawn without replacement within a step, and the decay."""
    theta, v, descent = removal.start, removal.shift, []
    for step in range(steps):
        rows = rng.choice(removal.kept, batch_size, replace=False)
        gradient = data.inputs[rows].T @ (data.inputs[rows] @ theta - data.labels[rows]) / batch_size
        cosines = cosine(v, gradient), cosine(v, removal.rest.gradient(theta))
        descent.append(DescentStep(removal.seed, removal.kind, step, *cosines))
        theta = theta - lr * (gradient + weight_decay * theta)
    return descent


def summary(removals: Sequence[Removal], rows: Sequence[DescentStep]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the seeds of one kind's removals.

    Returns:
        "shift_l1" and "shift_l2", norms of v; "batch_cosine" and "full_cosine", see `DescentStep`, of a seed the mean
        over all its steps; "first_cosine", the full cosine at θ(S_corr), before the first step. Each with "mean" and
        "std".
    """
    values: dict[str, list[float]] = {}
    for removal in removals:
        steps = [row for row in rows if (row.kind, row.seed) == (removal.kind, removal.seed)]
        of_seed = {
            "shift_l1": removal.l1,
            "shift_l2": float(np.linalg.norm(removal.shift)),
            "batch_cosine": mean(row.batch_cosine for row in steps),
            "full_cosine": mean(row.full_cosine for row in steps),
            "first_cosine": cosine(removal.shift, removal.rest.gradient(removal.start)),
        }
        for name, value in of_seed.items():
            values.setdefault(name, []).append(value)
    return {name: {"mean": mean(series), "std": pstdev(series)} for name, series in values.items()}
