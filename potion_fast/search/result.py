"""Result of a search: every step that it took, which one it kept, and why it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from ..importances import Importance
from ..modes import GroupSize

THRESHOLD_PASSED = "threshold passed"
SATURATED = "saturated"
OUT_OF_STEPS = "out of steps"
NOT_LEARNT = "trigger not learnt"
DAMAGE_LIMIT = "damage limit reached"


@dataclass(frozen=True)
class Step:
    """One line of the trace of a PTN search: a candidate, applied and evaluated.

    Attributes:
        step: Its number in the schedule, counted from 1; "minimal" has no schedule and counts its evaluations.
        s: s_iter of algorithm 1; NaN for "minimal".
        percentile: p = 100 − ln(1 + 100 · s) of eq. 7; NaN for "minimal".
        alpha: α, that percentile of Ω_f / Ω_r; for "minimal" the smallest ratio among the weights dampened.
        accuracy: Share of S_f still given its (poison) label, in [0, 1].
        dampened: Weights that differ from the original model's.
        seconds: Wall-clock time of the edit and its evaluation; for "batched" its share of that of all evaluated at
            once.
        clean_accuracy: Accuracy on `clean_loader`, in [0, 1], of a candidate that would be kept; None where it was not
            measured.
    """

    step: int
    s: float
    percentile: float
    alpha: float
    accuracy: float
    dampened: int
    seconds: float
    clean_accuracy: float | None = None


@dataclass(frozen=True)
class CleanAccuracy:
    """Clean accuracy before and after a search.

    Attributes:
        before: Of the model before any edit, in [0, 1].
        after: Of the model that is given back.
        data: What it is the accuracy on: "the clean data", or some samples of the training data.
    """

    before: float
    after: float
    data: str

    @property
    def damage(self) -> float:
        """The fall, in points."""
        return 100 * (self.before - self.after)


@dataclass
class Result:
    """What unlearning gives back.

    Attributes:
        model: The healed model.
        trace: Every candidate evaluated, in that order.
        kept: The one that the model is at; None where the model is unchanged.
        reason: "threshold passed", "saturated" (no further step changes the model: α ≤ 1, or every weight whose ratio
            is above 1 is dampened), "out of steps", "trigger not learnt" (the model gave no sample of S_f its label
            to begin with) or "damage limit reached" (what would be kept has lost more than `max_damage` points of clean
            accuracy, and the last candidate within them is kept instead).
        initial_accuracy: Accuracy on S_f before, acc₀, in [0, 1].
        strategy: Name of the strategy.
        rho: ρ.
        mode: Name of the mode.
        group_size: Group size of the importances.
        objective: Objective of the importances.
        warnings: What deserves a second look, as sentences.
        forget: Importances of S_f, for another search on the same model; None where `unlearn` ended before they were
            computed, as the trigger was not learnt.
        retain: Importances of the training data, likewise.
        seconds: Wall-clock time by phase: "forget", "retain" (where computed here) and "search".
        clean: Clean accuracy before and after, on `clean_loader`, or where there is none and `unlearn` ran the pass
            over the training data, in the default mode, on up to 256 samples spread over it; None where neither is.
        max_damage: Most points of it that might be lost; None for no limit.
    """

    model: nn.Module = field(repr=False)
    trace: list[Step] = field(repr=False)
    kept: Step | None
    reason: str
    initial_accuracy: float
    strategy: str
    rho: float
    mode: str
    group_size: GroupSize
    objective: str
    warnings: list[str]
    forget: Importance | None = None
    retain: Importance | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    clean: CleanAccuracy | None = None
    max_damage: float | None = None

    @property
    def alpha(self) -> float | None:
        """α of the step that was kept; None where the model is unchanged."""
        return None if self.kept is None else self.kept.alpha

    @property
    def evaluations(self) -> int:
        """How often the accuracy on S_f was taken, acc₀ included."""
        return 1 + len(self.trace)

    def summary(self) -> dict[str, Any]:
        """Everything but the model, the importances and the trace, as plain values for JSON."""
        return {
            "reason": self.reason,
            "alpha": self.alpha,
            "initial_accuracy": self.initial_accuracy,
            "strategy": self.strategy,
            "rho": self.rho,
            "mode": self.mode,
            "group_size": self.group_size,
            "objective": self.objective,
            "warnings": self.warnings,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
            "steps": len(self.trace),
            "training_samples": None if self.retain is None else {"read": self.retain.samples, "of": self.retain.total},
            "max_damage": self.max_damage,
            "clean_accuracy": None if self.clean is None else asdict(self.clean),
            "kept_step": None if self.kept is None else asdict(self.kept),
        }
