"""Scores of one label's samples as two groups: poison and the others, with p-values and false discovery rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .discriminant import Array, Mask

ITERATIONS = 200
TOLERANCE = 1e-7  # change of the share at which EM ends
NARROWEST = 0.25  # of poison's variance, in that of the scores' background: one sample is no spike
FREEDOM = 15  # degrees of Student's t
SHOULDER = (0.1, 0.05)  # upper shares of the natural samples, at which it may not lie below them
FEW = 20  # samples that a scale of their own is taken from
FEWEST = 5  # samples in a tail that tell its probability


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians in one dimension, poison above the others.

    Attributes:
        posterior: [n], probability of poison.
        share: Of poison.
        poison: Mean and standard deviation.
        others: Mean and standard deviation.
    """

    posterior: Array
    share: float
    poison: tuple[float, float]
    others: tuple[float, float]

    @property
    def separation(self) -> float:
        """Of the means, in the others' standard deviations."""
        return (self.poison[0] - self.others[0]) / self.others[1]


def two_gaussians(scores: Array, poison: float, others: float) -> Mixture:
    """Two Gaussians by EM.

    Args:
        scores: [n], in units of the background's standard deviation.
        poison: Where the poison's mean starts.
        others: Where that of the others starts, below it.
    """
    least = 1 / (4 * len(scores))
    means, share = np.array([others, poison]), 0.1
    near = scores[np.abs(scores - others) < np.abs(scores - poison)]
    variances = np.full(2, max(float(near.var()) if len(near) > 1 else 1.0, NARROWEST))
    posterior = np.zeros(len(scores))
    for _ in range(ITERATIONS):
        logs = -0.5 * ((scores[:, None] - means) ** 2 / variances + np.log(variances)) + np.log([1 - share, share])
        posterior = 1 / (1 + np.exp(np.clip(logs[:, 0] - logs[:, 1], -700, 700)))
        before, share = share, float(np.clip(posterior.mean(), least, 1 - least))
        weights = np.stack([1 - posterior, posterior], 1)
        totals = weights.sum(0) + 1e-12
        means = scores @ weights / totals
        variances = np.maximum((weights * (scores[:, None] - means) ** 2).sum(0) / totals, NARROWEST)
        if abs(share - before) < TOLERANCE:
            break
    deviations = np.sqrt(variances)
    # A wide Gaussian of the poison also takes the far end of the others.
    posterior = np.where(scores > means[0], posterior, 0.0)
    return Mixture(posterior, share, (float(means[1]), float(deviations[1])), (float(means[0]), float(deviations[0])))


def standardised(scores: Array, natural: Array) -> Array:
    """Scores in the natural samples' robust standard deviations above their median.

    The scale is the larger of those below and above the median: features behind a ReLU lean towards the poison.

    Args:
        scores: [n].
        natural: Scores of samples that are no poison, or nearly all of them.
    """
    centre = float(np.median(natural))
    if len(natural) < FEW:
        return scores - centre  # in the background's standard deviations
    below, above = natural[natural <= centre], natural[natural >= centre]
    scale = 1.4826 * max(float(np.median(centre - below)), float(np.median(above - centre)))
    return (scores - centre) / max(scale, 1e-6)


def p_values(scores: Array, natural: Mask, background: Array) -> Array:
    """Probability of such a score or a higher one, were the sample no poison.

    It is that of Student's t, widened until neither the natural samples' shoulder nor a tail of other labels' scores is
    above it. Shares themselves (conformal p-values) could be no smaller than one over the number of samples, which
    hides poison that is rare.

    Args:
        scores: [n], standardised.
        natural: [n], samples that are no poison, or nearly all of them.
        background: [M], scores of other labels' samples, standardised; may be empty.
    """
    from scipy.special import stdtr, stdtrit

    width, shares = 1.0, np.array(SHOULDER)
    if natural.sum() >= FEW:
        width = max(width, float((np.quantile(scores[natural], 1 - shares) / stdtrit(FREEDOM, 1 - shares)).max()))
    if len(background) >= FEW * FEWEST:
        counts = np.unique(np.geomspace(FEWEST, len(background) // FEW, 20).astype(int))
        tail = np.sort(background)[-counts] / stdtrit(FREEDOM, 1 - counts / len(background))
        width = max(width, float(tail.max()))
    p: Array = stdtr(FREEDOM, -scores / width)
    return p


def discovery_rates(p: Array) -> Array:
    """q-values [n]: the false discovery rate among all samples with a p-value no larger (Benjamini and Hochberg).

    The share of the others is estimated from the p-values above one half (Storey).
    """
    n = len(p)
    others = min(1.0, (1 + (p > 0.5).sum()) / (n * 0.5))
    order = np.argsort(p, kind="stable")
    rates = others * n * p[order] / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum(np.minimum.accumulate(rates[::-1])[::-1], 1.0)
    return q
