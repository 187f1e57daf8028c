"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "constant", "cosine", "multistep"]
SCHEDULES = ("linear", "constant", "cosine", "multistep")
MILESTONES = (350, 600, 875)  # thousandths of the training, after each of which a multistep rate is a tenth


def lr_factor(step: int, iterations: int, schedule: Schedule = "linear") -> float:
    """Learning rate of an optimiser step, as a factor of the base rate.

    Args:
        step: n, from 0.
        iterations: N, of the whole training.
        schedule: "linear": (n + 1) / (w + 1) for n < w = N // 100, then 1 - (n - w) / (1.25 N), which ends near 0.2:
            the public code's. "constant": 1. "cosine": (1 + cos(π n / N)) / 2. "multistep": a tenth after 35 %, again
            after 60 % and after 87.5 % of the iterations: Witches' Brew's, after epochs 14, 24 and 35 of 40.

    Returns:
        The factor.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * step / iterations)) / 2
    if schedule == "multistep":
        return float(0.1 ** sum(1000 * step >= milestone * iterations for milestone in MILESTONES))
    warmup = iterations // 100
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1 - (step - warmup) / (1.25 * iterations)
