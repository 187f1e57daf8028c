"""The curves of figure 4: how far θ moves when a share of some samples is left out of its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, pstdev

import numpy as np

from .feature_poisons import Poisoned
from .features import Features
from .logistic import Array, Minimiser, minimiser

KINDS = ("indiscriminate", "targeted", "random")
SHARES = (20, 40, 60, 80, 100)  # β, percent of the poisons that are unlearned
PRECISE = 0.01  # of a shift: what its error may be without a note


@dataclass(frozen=True)
class Shift:
    """‖θ(S_corr) - θ(S_corr without a share β of the poison)‖; of clean samples S_corr is S.

    Attributes:
        share: β, percent.
        removed: samples.
        l1, l2: norms.
        error: how far off l1 can be, as the gradients at both minimisers tell.
    """

    seed: int
    kind: str
    share: int
    removed: int
    l1: float
    l2: float
    error: float


def shifts(
    seed: int,
    kind: str,
    features: Features,
    poisoned: Poisoned,
    whole: Minimiser,
    weight_decay: float,
    tolerance: float,
    shares: Sequence[int] = SHARES,
) -> list[Shift]:
    """The curve of one poison. `whole` is θ(S_corr); a smaller share's samples are among those of a larger one."""
    found = []
    inputs = corrupted(features, poisoned)
    for share in shares:
        removed = round(share / 100 * len(poisoned.rows))
        kept = np.setdiff1d(np.arange(len(inputs)), poisoned.rows[:removed])
        labels = features.labels[kept]
        rest = minimiser(inputs[kept], labels, weight_decay, tolerance=tolerance, start=whole.theta)
        shift = whole.theta - rest.theta
        norms = float(np.abs(shift).sum()), float(np.linalg.norm(shift))
        found.append(Shift(seed, kind, share, removed, *norms, whole.error + rest.error))
    return found


def corrupted(features: Features, poisoned: Poisoned) -> Array:
    """The inputs of S_corr [N, d]: the poisons stand where they were taken from, with their labels."""
    inputs = features.train.copy()
    inputs[poisoned.rows] = poisoned.inputs
    return inputs


def curves(rows: Sequence[Shift]) -> dict[str, list[dict[str, float]]]:
    """By kind, for each share, mean and standard deviation of the L1 shift over the seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    for kind in KINDS:
        for share in SHARES:
            values = [row.l1 for row in rows if (row.kind, row.share) == (kind, share)]
            point = {"share": share, "mean": mean(values), "std": pstdev(values)}
            found.setdefault(kind, []).append(point)
    return found


def ratios(rows: Sequence[Shift]) -> dict[str, dict[str, float]]:
    """Of both poisons, the L1 shift when all of it is left out over that of as many clean samples.

    Returns:
        By kind the ratio of the means over the seeds, and the lowest of one seed; NaN where leaving out clean samples
        is no shift at all.
    """
    last = {(row.kind, row.seed): row.l1 for row in rows if row.share == SHARES[-1]}
    seeds = sorted({row.seed for row in rows})
    clean = {seed: last["random", seed] for seed in seeds}
    found = {}
    for kind in KINDS[:-1]:
        poison = {seed: last[kind, seed] for seed in seeds}
        lowest = min((poison[seed] / clean[seed] for seed in seeds if clean[seed]), default=math.nan)
        total = sum(clean.values())
        found[kind] = {"mean": sum(poison.values()) / total if total else math.nan, "lowest": lowest}
    return found


def notes(rows: Sequence[Shift]) -> list[str]:
    """What deserves a second look, as sentences."""
    inexact = sum(row.error > PRECISE * row.l1 for row in rows)
    if not inexact:
        return []
    return [f"{inexact} of {len(rows)} shifts may be off by more than {PRECISE:.0%}: choose a smaller tolerance"]
