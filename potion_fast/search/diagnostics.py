"""What deserves a second look after a search, as sentences."""

from __future__ import annotations

import math
from itertools import accumulate

from .result import OUT_OF_STEPS, SATURATED, Step

JUMPS = ("bisect", "minimal")  # these draw conclusions on candidates that they do not evaluate


def notes_on(
    strategy: str, reason: str, rho: float, initial: float, trace: list[Step], kept: Step | None, finite: bool
) -> list[str]:
    """What deserves a second look after a search, as sentences."""
    notes = []
    if initial == 0:
        notes.append("the model gives no sample of the forget set its label: the trigger was not learnt on them")
    if reason in (SATURATED, OUT_OF_STEPS):
        notes.append(f"the search ended {reason} before the accuracy on S_f fell to {rho:g} of {initial:.4g}")
    if kept is not None and math.isnan(kept.alpha):
        notes.append("no weight has a finite ratio of importances: there is nothing to select by")
    if kept is None and reason == SATURATED:
        notes.append("no weight has a ratio of importances above 1: there is nothing to dampen")
    if strategy in JUMPS and (rises := _rises([initial, *(step.accuracy for step in _by_edits(trace))])):
        notes.append(
            f"the accuracy on S_f does not fall with every edit: {rises} of {len(trace)} candidates lie above one with "
            f'fewer edits; strategy "{strategy}" may have passed over an answer'
        )
    if not finite:
        notes.append("the model collapsed: its outputs on the forget set are not finite")
    return notes


def _by_edits(trace: list[Step]) -> list[Step]:
    return sorted(trace, key=lambda step: step.dampened)


def _rises(accuracies: list[float]) -> int:
    """How many lie above one before them."""
    return sum(later > lowest for later, lowest in zip(accuracies[1:], accumulate(accuracies, min), strict=False))
