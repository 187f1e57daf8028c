"""Diagnostics of a finished search, as sentences."""

from __future__ import annotations

import math
from itertools import accumulate

from .result import DAMAGE_LIMIT, OUT_OF_STEPS, SATURATED, WARNED, Result
from .strategies import STRATEGIES


def diagnose(result: Result, finite: bool) -> list[str]:
    """What deserves a second look after a search.

    Args:
        result: The result; its `warnings` are not read.
        finite: Whether all outputs of the model that was kept are finite.
    """
    notes = []
    if result.initial_accuracy == 0:
        notes.append("the model gives no sample of the forget set its label: the trigger was not learnt on them")
    if result.reason in (SATURATED, OUT_OF_STEPS, DAMAGE_LIMIT):
        goal = f"the accuracy on S_f fell to {result.rho:g} of {result.initial_accuracy:.4g}"
        notes.append(f"the search ended {result.reason} before {goal}")
    if result.reason == DAMAGE_LIMIT and result.kept is None:
        notes.append(f"the first edit costs more than {result.max_damage:g} points of clean accuracy: there is none")
    if result.clean is not None and result.max_damage is None and result.clean.damage > WARNED:
        before, after = (f"{100 * accuracy:.1f}" for accuracy in (result.clean.before, result.clean.after))
        notes.append(
            f"clean accuracy on {result.clean.data} fell from {before} to {after} %: perhaps what S_f shares is no "
            "trigger but something that the model needs for other samples too; heal it with potion_fast.heal"
        )
    if result.kept is not None and math.isnan(result.kept.alpha):
        notes.append("no weight has a finite ratio of importances: there is nothing to select by")
    if result.kept is None and result.reason == SATURATED:
        notes.append("no weight has a ratio of importances above 1: there is nothing to dampen")
    if STRATEGIES[result.strategy].jumps and (rises := _rises(result)):
        notes.append(
            f"the accuracy on S_f does not fall with every edit: {rises} of {len(result.trace)} candidates lie above "
            f'one with fewer edits; strategy "{result.strategy}" may have passed over an answer'
        )
    if not finite:
        notes.append("the model collapsed: its outputs on the forget set are not finite")
    return notes


def _rises(result: Result) -> int:
    """How many candidates have a higher accuracy than one with fewer edits, the unedited model included."""
    by_edits = sorted(result.trace, key=lambda step: step.dampened)
    accuracies = [result.initial_accuracy, *(step.accuracy for step in by_edits)]
    lowest = accumulate(accuracies, min)  # up to the one before
    return sum(accuracy > low for accuracy, low in zip(accuracies[1:], lowest, strict=False))
