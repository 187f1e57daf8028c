"""θ(S): multinomial logistic regression on features, solved to its unique minimiser."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ...errors import PotionError

MOST_STEPS = 1000  # of Newton; about ten are needed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Minimiser:
    """The minimiser of (1/N) Σ cross-entropy(θ [x; 1], y) + weight_decay / 2 ‖θ‖₂², found up to a small gradient.

    Weights and biases are decayed alike, as by torch's optimisers; so the minimiser is unique.

    Attributes:
        theta: float64 [C, d + 1], the biases last.
        gradient: L2 norm of the gradient of that mean there.
        error: how far the minimiser can lie from theta in the L1 norm, √(C (d + 1)) gradient / weight_decay: the
            mean is strongly convex with that constant.
    """

    theta: Array
    gradient: float
    error: float


def minimiser(
    features: Array,  # [N, d]
    labels: NDArray[np.int64],  # [N], each class at least once
    weight_decay: float,
    *,
    tolerance: float = 1e-8,
    start: Array | None = None,
) -> Minimiser:
    """θ(S), by scikit-learn's Newton method with C = 1 / (weight_decay N).

    Args:
        features: of S.
        labels: of S.
        weight_decay: of the L2 penalty.
        tolerance: largest entry of the gradient to stop at.
        start: theta [C, d + 1] to begin from; the minimiser does not depend on it.

    Raises:
        PotionError: weight_decay is not above 0.
    """
    if not weight_decay > 0:
        raise PotionError(f"weight_decay must be above 0, not {weight_decay}: without it there is no unique minimiser")
    inputs = np.hstack([features, np.ones((len(features), 1))])  # [N, d + 1]
    solver = LogisticRegression(
        C=1 / (weight_decay * len(inputs)),
        fit_intercept=False,  # scikit-learn would not decay its intercept
        solver="newton-cg",
        tol=tolerance,
        max_iter=MOST_STEPS,
        warm_start=start is not None,
    )
    if start is not None:
        solver.coef_ = start.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gradient that was reached is given back
        solver.fit(inputs, labels)
    theta = solver.coef_
    norm = float(np.linalg.norm(_mean_gradient(theta, inputs, labels) + weight_decay * theta))
    return Minimiser(theta, norm, math.sqrt(theta.size) * norm / weight_decay)


def predicted(
    theta: Array,  # [C, d + 1]
    features: Array,  # [N, d]
) -> NDArray[np.int64]:  # [N]
    """The class that each sample is put into."""
    return np.asarray((features @ theta[:, :-1].T + theta[:, -1]).argmax(axis=1))


def _mean_gradient(theta: Array, inputs: Array, labels: NDArray[np.int64]) -> Array:  # [C, d + 1]
    """Of the mean cross-entropy."""
    logits = inputs @ theta.T  # [N, C]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(inputs)), labels] -= 1
    return shares.T @ inputs / len(inputs)
