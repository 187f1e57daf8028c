"""Early stops: the end of a search for one ρ, read off the trace of a search for a smaller one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...modes import mode_named
from ...search import OUT_OF_STEPS, S_STEP, SATURATED, THRESHOLD_PASSED, Result, Step

MAX_STEPS = 500  # of the public code, at its step of 1.1


@dataclass(frozen=True)
class EarlyStop:
    """The end of a search for ρ.

    Attributes:
        rho: ρ.
        kept: The step whose model it gives; None where the model is unchanged.
        steps: Number of steps up to there.
        reason: Why it ended, see `Result`.
        seconds: Of the search, without the steps past its end.
        notes: What deserves a second look, as sentences.
    """

    rho: float
    kept: Step | None
    steps: int
    reason: str
    seconds: float
    notes: list[str]


def steps_for(s_step: float) -> int:
    """How many steps of this factor go as far as the public code's 500 of 1.1; no fewer than those."""
    return max(MAX_STEPS, math.ceil(MAX_STEPS * math.log(S_STEP) / math.log(s_step)))


def stop_at(result: Result, rho: float, strict: bool) -> EarlyStop:
    """The end of the same search for another ρ.

    Args:
        result: Of a strategy that tries every step.
        rho: Not below the result's own, so that the steps are the same up to there.
        strict: Stop below ρ · acc₀ and not at it.
    """
    mode = mode_named(result.mode)
    kept, steps, reason = result.kept, len(result.trace), result.reason
    if result.kept is not None:
        for number, step in enumerate(result.trace, start=1):
            if mode.passes(step.accuracy, result.initial_accuracy, rho, strict):
                kept, steps, reason = step, number, THRESHOLD_PASSED
                break
    unneeded = sum(step.seconds for step in result.trace[steps:])
    return EarlyStop(rho, kept, steps, reason, result.seconds["search"] - unneeded, notes(result, rho, kept, reason))


def stop_of(result: Result) -> EarlyStop:
    """The end of the search itself."""
    sentences = notes(result, result.rho, result.kept, result.reason)
    return EarlyStop(result.rho, result.kept, len(result.trace), result.reason, result.seconds["search"], sentences)


def notes(result: Result, rho: float, kept: Step | None, reason: str) -> list[str]:
    """Diagnostics of a search that ends at a step of the result, as sentences."""
    sentences = []
    if result.initial_accuracy == 0:
        sentences.append("the model gives no sample of the forget set its label: the trigger was not learnt on them")
    if reason in (SATURATED, OUT_OF_STEPS):
        goal = f"the accuracy on S_f fell to {rho:g} of {result.initial_accuracy:.4g}"
        sentences.append(f"the search ended {reason} before {goal}")
    if reason == SATURATED and (kept is None or not kept.dampened):
        sentences.append("no weight has a ratio of importances above 1: there is nothing to dampen")
    return sentences


def spread(trace: Sequence[Step], points: int) -> list[Step]:
    """At most so many steps, spread evenly from the first to the last; of those with equal weights the first."""
    different = [step for number, step in enumerate(trace) if not number or step.dampened != trace[number - 1].dampened]
    if points < 1 or not different:
        return []
    wanted = np.unique(np.linspace(0, len(different) - 1, min(points, len(different))).round().astype(int))
    return [different[place] for place in wanted]
