"""Success of an attack, estimated: shares with their intervals, before and after a healing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..utils.cost import Cost

ERROR = 0.02  # of how the trigger is put on: 0.017 (root mean square) on seven models, 0.09 on one more
QUANTILE = 1.645  # of the normal distribution: two-sided, 90 %


@dataclass(frozen=True)
class AttackSuccess:
    """How often clean samples with the trigger get the poison's label, estimated.

    Attributes:
        success: Share of the samples.
        low: Lower end of its 90 % interval.
        high: Upper end.
        without: Share of the same samples that get that label without the trigger.
        samples: M.
        lost: Share of the clean samples that the model rightly gives the poison's label which lose it by the trigger:
            where healing turned the trigger round, it takes that label away. NaN where there are none.
        lost_low: Lower end of its 90 % interval (Wilson's).
    """

    success: float
    low: float
    high: float
    without: float
    samples: int
    lost: float = math.nan
    lost_low: float = math.nan

    @classmethod
    def of(cls, fooled: int, by_nature: int, samples: int, lost: int = 0, of: int = 0) -> AttackSuccess:
        """From counts; the last two are samples of the poison's own label that lose it, of so many that had it.

        The interval holds chance (Wilson's), and `ERROR` for how the trigger is put on.
        """
        share = fooled / samples
        low, high = (
            share + side * ((end - share) ** 2 + (QUANTILE * ERROR) ** 2) ** 0.5
            for side, end in zip((-1, 1), _wilson(fooled, samples), strict=True)
        )
        own = (lost / of, _wilson(lost, of)[0]) if of else (math.nan, math.nan)
        return cls(share, max(0.0, low), min(1.0, high), by_nature / samples, samples, *own)

    def summary(self) -> dict[str, float | None]:
        """As plain values for JSON, which has no NaN."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.success:.1%} ({self.low:.1%} to {self.high:.1%})"


def _wilson(count: int, samples: int) -> tuple[float, float]:
    """Ends of the 90 % interval of a share (Wilson, 1927)."""
    share, weight = count / samples, QUANTILE**2 / samples
    centre = (share + weight / 2) / (1 + weight)
    width = (weight * share * (1 - share) + weight**2 / 4) ** 0.5 / (1 + weight)
    return centre - width, centre + width


@dataclass(frozen=True)
class AttackEstimate:
    """Attack success of a model before and after healing.

    Attributes:
        before: Of the given model; None where the trigger could not be put onto clean samples.
        after: Of the healed one.
        why: How it was estimated, or why it was not.
        way: "pattern" or "transplant", how the trigger was put on; empty where it was not.
        cost: Samples that went through the model.
    """

    before: AttackSuccess | None = None
    after: AttackSuccess | None = None
    why: str = ""
    way: str = ""
    cost: Cost = field(default_factory=Cost)

    def summary(self) -> dict[str, Any]:
        """As plain values for JSON."""
        parts = {"before": self.before, "after": self.after}
        return {name: None if part is None else part.summary() for name, part in parts.items()} | {"why": self.why}

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"not known: {self.why}"
        return f"{self.before} -> {self.after}, {self.after.without:.1%} without the trigger; {self.why}"
