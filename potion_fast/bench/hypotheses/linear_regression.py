"""The linear regression of appendix E.2 of Pawelczyk et al.: its synthetic set, θ(S) in closed form, and poison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError

VARIANCE, NOISE = 1e-4, 1e-2  # of the coordinates that mean nothing, and of the labels' noise
GRADPC_BATCH = 64  # samples, as in GradPC's public code

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticSet:
    """Samples whose labels depend on the first coordinates only, half by one weight vector and half by another.

    Attributes:
        inputs: float64 [N, d], the first k coordinates ~ N(0, 1), the others ~ N(0, 1e-4).
        labels: float64 [N], <w_1, x> + N(0, 1e-2) for the first N // 2 samples, <w_2, x> + N(0, 1e-2) for the
            others.
        weights: float64 [2, d], orthogonal unit vectors, 0 past the first k coordinates.
    """

    inputs: Array
    labels: Array
    weights: Array

    @property
    def half(self) -> int:
        """The first sample that w_2 gave its label."""
        return len(self.labels) // 2

    @classmethod
    def draw(cls, samples: int, dimension: int, informative: int, rng: np.random.Generator) -> SyntheticSet:
        """`informative` is k, at least 2."""
        inputs = rng.standard_normal((samples, dimension))
        inputs[:, informative:] *= VARIANCE**0.5
        weights = np.zeros((2, dimension))
        weights[:, :informative] = np.linalg.qr(rng.standard_normal((informative, 2)))[0].T
        first = np.arange(samples) < samples // 2
        labels = np.where(first, inputs @ weights[0], inputs @ weights[1])
        return cls(inputs, labels + NOISE**0.5 * rng.standard_normal(samples), weights)


@dataclass(frozen=True)
class NormalEquations:
    """The normal equations of some samples: all that least squares needs of them.

    Attributes:
        gram: Σ x xᵀ [d, d].
        moments: Σ y x [d].
        samples: how many.
    """

    gram: Array
    moments: Array
    samples: int

    @classmethod
    def of(cls, inputs: Array, labels: Array) -> NormalEquations:
        """Those of inputs [N, d] and labels [N]."""
        return cls(inputs.T @ inputs, inputs.T @ labels, len(labels))

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(self.gram + other.gram, self.moments + other.moments, self.samples + other.samples)

    def __sub__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(self.gram - other.gram, self.moments - other.moments, self.samples - other.samples)

    def gradient(self, theta: Array) -> Array:  # [d]
        """Of the mean of ½ (<θ, x> - y)² over the samples."""
        return (self.gram @ theta - self.moments) / self.samples

    def minimiser(self, weight_decay: float) -> Array:  # [d]
        """θ(S), the one minimiser of that mean plus weight_decay / 2 ‖θ‖₂²; without a decay N >= d is needed."""
        decayed = self.gram / self.samples + weight_decay * np.eye(len(self.moments))
        return np.asarray(np.linalg.solve(decayed, self.moments / self.samples), dtype=np.float64)


def corrupted(data: SyntheticSet, theta: Array, budget: float, rng: np.random.Generator) -> Array:  # [d]
    """GradPC: θ_low = θ + a. The squared loss is ascended in a step of length 1 per batch, within ‖a‖₂ <= budget."""
    low = theta
    order = rng.permutation(len(data.labels))
    for start in range(0, len(order), GRADPC_BATCH):
        rows = order[start : start + GRADPC_BATCH]
        gradient = data.inputs[rows].T @ (data.inputs[rows] @ low - data.labels[rows])
        change = low + gradient / np.linalg.norm(gradient) - theta
        low = theta + change * min(1.0, budget / float(np.linalg.norm(change)))
    return low


def cancel(
    data: SyntheticSet,
    clean: NormalEquations,
    rows: NDArray[np.int64],  # [P]
    low: Array,  # [d]
    weight_decay: float,
    steps: int,
    lr: float,
) -> tuple[Array, float]:
    """Gradient canceling on the squared loss (algorithm 2): inputs [P, d] of poisons that are appended to all samples.

    With G the sum of all gradients at θ_low, the decay's among them, ½ ‖G / P‖² is descended in the P inputs. They
    begin as copies of these rows, and keep their labels. Equation 4 adds two means, which only come to that sum
    where clean and poisoned samples are equally many: then it is this loss.

    Also returns ‖G‖ at the end, of what it was at the start.

    Raises:
        ModelError: the descent diverges.
    """
    inputs, labels = data.inputs[rows].copy(), data.labels[rows]
    union = clean.samples + len(rows)
    fixed = clean.samples * clean.gradient(low) + union * weight_decay * low
    norms = []
    for step in range(steps + 1):
        residuals = inputs @ low - labels  # [P]
        total = (fixed + residuals @ inputs) / len(rows)  # G / P
        norms.append(float(np.linalg.norm(total)))
        if not norms[-1] <= 1e3 * norms[0]:  # nor NaN
            raise ModelError(f"gradient canceling diverged at step {step}; choose a smaller learning rate than {lr}")
        if step < steps:
            inputs -= lr / len(rows) * (np.outer(residuals, total) + np.outer(inputs @ total, low))
    return inputs, norms[-1] / norms[0]


def cosine(v: Array, g: Array) -> float:
    """<v, g> / (‖v‖ ‖g‖), in [-1, 1]."""
    return float(v @ g / (np.linalg.norm(v) * np.linalg.norm(g)))
