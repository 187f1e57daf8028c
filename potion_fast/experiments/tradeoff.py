"""The trade-off between poison and use along a search, and past its end (paper A, figure 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from ..edits import EditPlan
from ..metrics import accuracy, predict
from ..percentiles import percentile_of, thresholds
from ..progress import bar
from ..search import Result
from .scenario import Scenario

POINTS = 24  # evaluations of the test set, twice each
PAST_END = 12.0  # how far past the last step's s the curve goes


@dataclass(frozen=True)
class Point:
    """Test accuracies in [0, 1], clean labels, at a candidate that dampens so many weights."""

    s: float
    dampened: int
    clean_accuracy: float
    triggered_accuracy: float


def trade_off(model: nn.Module, result: Result, scenario: Scenario, progress: bool = False) -> list[Point]:
    """Both test accuracies over the search's range of s and on past its end; the model comes back as it was.

    An empty list where the search took no step.
    """
    if not result.trace:
        return []
    first, last = result.trace[0].s, result.trace[-1].s
    wanted = np.unique(np.append(np.geomspace(first, PAST_END * last, POINTS), last)).tolist()
    wanted = [s for s in wanted if percentile_of(s) >= 0]
    alphas = thresholds(result.forget, result.retain, [percentile_of(s) for s in wanted])
    plan = EditPlan(model, result.forget, result.retain, alphas)
    points: list[Point] = []
    try:
        for k, s in enumerate(bar(wanted, what="curve", unit="point", shown=progress)):
            if points and plan.dampened(k) == points[-1].dampened:
                continue  # edits are nested: as many weights are the same weights
            plan.apply(k)
            clean, triggered = (accuracy(*predict(model, scenario.test_loader(t))) for t in (False, True))
            points.append(Point(s, plan.dampened(k), clean, triggered))
    finally:
        plan.reset()
    return points
