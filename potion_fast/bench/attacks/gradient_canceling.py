"""Gradient canceling: an attack on the accuracy as a whole (Lu et al., *Exploring the Limits*, 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import DataError
from .perturbation import Perturbation

PLACEMENTS = ("append", "replace")


@dataclass(frozen=True, kw_only=True)
class GradientCanceling(Perturbation):
    """Perturbations crafted so that on clean and poisoned data together a bad model's gradient vanishes.

    Attributes:
        epsilon: largest change of a pixel's value, of 255; None: unbounded.
        placement: "append" adds perturbed copies to the training set, "replace" perturbs samples in their place.

    Raises:
        DataError: an epsilon that is not above 0, or an unknown placement; see also `Perturbation`.
    """

    kind = "indiscriminate"
    scores = ("clean_accuracy", "test_error")
    epsilon: float | None = None
    placement: str = "append"

    def __post_init__(self) -> None:
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise DataError(f"epsilon must be above 0, or None for no bound; not {self.epsilon}")
        if self.placement not in PLACEMENTS:
            raise DataError(f"poison is placed by {' or '.join(PLACEMENTS)}, not {self.placement!r}")
