"""The result of a crafting: perturbations, and how they came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Crafted:
    """Perturbations, and how they came about.

    Attributes:
        perturbations: float32 [P, C, H, W] on the CPU, in units of the normalised images.
        losses: of every restart by step, what was minimised; a method without restarts has one.
        kept: number, from 0, of the restart whose perturbations these are.
        facts: settings and results, plain values.
    """

    perturbations: Tensor
    losses: list[list[float]]
    kept: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
