"""State of a search: what it has tried, what it would keep, and why it ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..edits.plan import EditPlan
from ..edits.ranked import RankedPlan
from ..modes import GroupSize, mode_named
from .damage import CleanData, Counts
from .diagnostics import diagnose
from .result import (
    DAMAGE_LIMIT,
    NOT_LEARNT,
    OUT_OF_STEPS,
    SATURATED,
    THRESHOLD_PASSED,
    CleanAccuracy,
    Result,
    Step,
)
from .strategies import Score, Trial, try_candidate
from .unedited import Unedited

Plan = EditPlan | RankedPlan
Point = tuple[int, float, float]  # number of a step, s, p
Tried = tuple[Trial, Step]


@dataclass
class Search:
    """A search under way.

    Attributes:
        unedited: The model before any edit.
        reason: Why it ended; `OUT_OF_STEPS` until then.
        plan: The plan whose edits are in force.
        trace: Every candidate evaluated.
        best: The least edited candidate that passes, or else the most edited one, and its step; with a limit on the
            damage the most edited one within it.
        counts: On clean data, by the place in the trace, of the candidates that were measured there.
    """

    unedited: Unedited
    reason: str = OUT_OF_STEPS
    plan: Plan | None = None
    trace: list[Step] = field(default_factory=list)
    best: Tried | None = None
    counts: dict[int, Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings, self.initial = self.unedited.settings, self.unedited.score
        if self.unedited.ends_at_once:
            self.reason = NOT_LEARNT

    def passes(self, accuracy: float) -> bool:
        """Whether the accuracy on S_f is low enough."""
        strict = bool(self.settings.strict)
        return mode_named(self.settings.mode).passes(accuracy, self.initial.accuracy, self.settings.rho, strict)

    def record(self, trial: Trial, points: list[Point]) -> Tried:
        """Add a candidate to the trace; `points` are the steps of the round, none where there is no schedule."""
        number, s, p = points[trial.k] if points else (len(self.trace) + 1, math.nan, math.nan)
        step = Step(number, s, p, trial.alpha, trial.accuracy, trial.dampened, trial.seconds)
        self.trace.append(step)
        return trial, step

    def end_round(self, tried: list[Tried], points: list[Point]) -> bool:
        """Choose among a round's candidates; whether the search is over."""
        self.best = _best(tried, self.passes)
        ends_early = not points and len(self.trace) < self.settings.max_steps  # every weight with a ratio above 1
        if self.best is not None and self.passes(self.best[0].accuracy):
            self.reason = THRESHOLD_PASSED
        elif self.best is None or not self.best[0].alpha > 1 or ends_early:  # NaN too: no ratio was finite
            self.reason = SATURATED
        return self.reason != OUT_OF_STEPS

    def measured(self, tried: Tried, plan: Plan) -> Tried:
        """A candidate with its clean accuracy, which its step in the trace gets too."""
        trial, step = tried
        assert self.unedited.clean is not None
        if step.clean_accuracy is None:
            plan.apply(trial.k)
            place, counts = self.trace.index(step), self.unedited.clean.evaluate()
            assert counts is not None
            self.counts[place] = counts
            step = self.trace[place] = replace(step, clean_accuracy=counts.accuracy)
        return trial, step

    def exceeds_limit(self, plan: Plan) -> bool:
        """Whether there is a limit on the damage, and the best candidate, which is then measured, is beyond it."""
        if self.settings.max_damage is None or self.best is None:
            return False
        self.best = self.measured(self.best, plan)
        return not self._allows(self.best[1])

    def _allows(self, step: Step) -> bool:
        most, clean = self.settings.max_damage, self.unedited.clean
        assert most is not None and clean is not None and step.clean_accuracy is not None
        return clean.allows(step.clean_accuracy, most)

    def step_back(self, plan: Plan, tried: list[Tried], points: list[Point], evaluate: Callable[[], Score]) -> None:
        """Halve the range before the best candidate, which is beyond the limit, down to the last that is within."""
        assert self.best is not None
        known = {trial.k: (trial, step) for trial, step in tried}
        low, high, self.best = -1, self.best[0].k, None
        while high - low > 1:
            middle = (low + high) // 2
            candidate = known.get(middle) or self.record(try_candidate(plan, middle, evaluate), points)
            candidate = self.measured(candidate, plan)
            if self._allows(candidate[1]):
                low, self.best = middle, candidate
            else:
                high = middle
        self.reason = DAMAGE_LIMIT

    def result(self, objective: str, group_size: GroupSize, clean: CleanData | None = None) -> Result:
        """The result with its warnings, for a model that is at the best candidate; see `search_from` for `clean`."""
        if self.unedited.clean is not None and self.best is not None and self.plan is not None:
            self.best = self.measured(self.best, self.plan)
        result = Result(
            model=self.unedited.model.wrapped,
            trace=self.trace,
            kept=None if self.best is None else self.best[1],
            reason=self.reason,
            initial_accuracy=self.initial.accuracy,
            strategy=self.settings.strategy,
            rho=self.settings.rho,
            mode=self.settings.mode,
            group_size=group_size,
            objective=objective,
            warnings=[],
            clean=self._damage(clean),
            max_damage=self.settings.max_damage,
        )
        result.warnings = diagnose(result, self.initial.finite if self.best is None else self.best[0].finite)
        return result

    def _damage(self, clean: CleanData | None) -> CleanAccuracy | None:
        clean = clean if self.unedited.clean is None else self.unedited.clean
        if clean is None:
            return None
        if self.best is None:
            return clean.after(clean.before)
        measured = self.counts.get(self.trace.index(self.best[1]))
        return clean.after(clean.evaluate() if measured is None else measured)


def _best(tried: list[Tried], passes: Callable[[float], bool]) -> Tried | None:
    """The least edited that passes; where none does, the most edited."""
    passing = [pair for pair in tried if passes(pair[0].accuracy)]
    if passing:
        return min(passing, key=lambda pair: (pair[0].dampened, pair[0].k))
    return max(tried, key=lambda pair: pair[0].k, default=None)
