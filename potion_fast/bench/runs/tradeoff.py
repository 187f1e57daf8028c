"""The trade-off between poison and use along a search, and past its end (*Potion*, figure 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from torch import nn

from ...edits.plan import EditPlan
from ...edits.ranked import RankedPlan
from ...percentiles import percentile_of
from ...search import STRATEGIES, Result
from ...utils.predict import accuracy, predict
from ...utils.progress import bar
from .scenario import Scenario

POINTS = 24  # evaluations of the test set, twice each
PAST_END = 12.0  # how far past the kept step's s, or number of weights, the curve goes


@dataclass(frozen=True)
class Point:
    """Test accuracies in [0, 1], clean labels, at a candidate that dampens so many weights; s is NaN for "minimal"."""

    s: float
    dampened: int
    clean_accuracy: float
    triggered_accuracy: float  # on the images that the attack is judged by, see `Poison.attacked_samples`


def curve_columns(scenario: Scenario) -> list[str]:
    """Names of the fields of a point; without the last where the attack is judged by the clean images themselves."""
    names, attacked = [field.name for field in fields(Point)][:-1], scenario.poison.score_names[0]
    return names if attacked in names else [*names, attacked]


def trade_off(model: nn.Module, result: Result, scenario: Scenario, progress: bool = False) -> list[Point]:
    """Both accuracies over the search's range of s and on past its end; the model comes back as it was.

    Args:
        model: the poisoned one.
        result: of the search.
        scenario: data of the model.
        progress: show a progress bar.

    Returns:
        Points by ascending number of weights; none where the search took no step.
    """
    if result.kept is None:
        return []
    uses_grid = STRATEGIES[result.strategy].uses_grid
    plan, wanted = _step_by_step(model, result) if uses_grid else _weight_by_weight(model, result)
    points: list[Point] = []
    try:
        for k, s in bar(wanted, label="curve", unit="point", shown=progress):
            if points and plan.dampened(k) == points[-1].dampened:
                continue  # edits are nested: as many weights are the same weights
            plan.apply(k)
            clean = accuracy(*predict(model, scenario.test_loader(False)))
            same = scenario.poison.score_names[0] == "clean_accuracy"
            attacked = clean if same else accuracy(*predict(model, scenario.attacked_loader()))
            points.append(Point(s, plan.dampened(k), clean, attacked))
    finally:
        plan.reset()
    return points


def _step_by_step(model: nn.Module, result: Result) -> tuple[EditPlan, list[tuple[int, float]]]:
    """A plan, and its candidates with their s."""
    assert result.kept is not None and result.forget is not None and result.retain is not None
    first, last = min(step.s for step in result.trace), result.kept.s
    wanted = np.unique(np.append(np.geomspace(first, PAST_END * last, POINTS), last)).tolist()
    wanted = [s for s in wanted if percentile_of(s) >= 0]
    plan = EditPlan.at_percentiles(model, result.forget, result.retain, [percentile_of(s) for s in wanted])
    return plan, list(enumerate(wanted))


def _weight_by_weight(model: nn.Module, result: Result) -> tuple[RankedPlan, list[tuple[int, float]]]:
    """The same without steps: s is NaN."""
    assert result.kept is not None and result.forget is not None and result.retain is not None
    plan, last = RankedPlan(model, result.forget, result.retain), result.kept.dampened
    while len(plan.alphas) < PAST_END * last and plan.more():
        pass
    end = min(PAST_END * last, len(plan.alphas))
    counts = np.unique(np.append(np.geomspace(1, end, POINTS).astype(int), last)).tolist()
    return plan, [(count - 1, math.nan) for count in counts]
