"""Result of a search: every step that it took, which one it kept, and why it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import nn

from ..importances import Importance
from ..modes import GroupSize

THRESHOLD_PASSED = "threshold passed"
SATURATED = "saturated"
OUT_OF_STEPS = "out of steps"
NOT_LEARNT = "trigger not learnt"
DAMAGE_LIMIT = "damage limit reached"

WARNED = 10.0  # points of clean accuracy: a larger fall is warned of
CLEAN_DATA = "the clean data"
UNSEEN = "accuracy on data that the model has not seen (clean_loader= measures it); "
OTHER_POISON = "poison that was not found, and what other inputs with the trigger get"
CLASSES = 5  # of those that lost most are printed


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


class ClassAccuracy(NamedTuple):
    """Clean accuracy of the samples of one class, in [0, 1], before and after a search."""

    samples: int
    before: float
    after: float


@dataclass(frozen=True)
class CleanAccuracy:
    """Clean accuracy before and after a search.

    Attributes:
        before: Of the model before any edit, in [0, 1].
        after: Of the model that is given back.
        data: What it is the accuracy on: "the clean data", or some samples of the training data.
        by_class: The same by label.
    """

    before: float
    after: float
    data: str
    by_class: dict[int, ClassAccuracy] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "by_class": {str(label): c._asdict() for label, c in self.by_class.items()}}

    @property
    def damage(self) -> float:
        """The fall, in points."""
        return 100 * (self.before - self.after)


@dataclass(repr=False)
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
        wrong_members: Members of S_f that are not like the poison that the others show, by their places in what the
            loader of S_f gives; `unlearn` looks for them in the default mode, where it runs the pass over the training
            data.
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
    wrong_members: list[int] = field(default_factory=list)

    @property
    def alpha(self) -> float | None:
        """α of the step that was kept; None where the model is unchanged."""
        return None if self.kept is None else self.kept.alpha

    @property
    def evaluations(self) -> int:
        """How often the accuracy on S_f was taken, acc₀ included."""
        return 1 + len(self.trace)

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence. "Threshold passed" is about S_f alone."""
        now = f"{self.final_accuracy:.1%} of the found samples get the poison's label"
        if self.clean is not None and self.clean.damage > WARNED:
            return f"damaged: clean accuracy fell by {self.clean.damage:.1f} points; {now}"
        if self.reason == NOT_LEARNT:
            return "unchanged: the model gives no found sample its label, so they say nothing of what is to be unlearnt"
        if self.kept is None:
            return f"unchanged: no edit was kept ({self.reason}); {now}"
        if self.reason != THRESHOLD_PASSED:
            return f"not unlearnt: the search ended {self.reason}; {now}"
        return f"unlearnt on what was found: {now}; whether the rest of the poison is gone is not known"

    @property
    def final_accuracy(self) -> float:
        """Accuracy on S_f after, in [0, 1]: the share that still gets the poison's label."""
        return self.initial_accuracy if self.kept is None else self.kept.accuracy

    def __str__(self) -> str:
        found = "the found samples" if self.forget is None else f"{self.forget.samples} found samples"
        lines = [
            self.verdict,
            f"S_f with the poison's label: {self.initial_accuracy:.1%} -> {self.final_accuracy:.1%} of {found}; the "
            f"search stops at {self.rho * self.initial_accuracy:.1%}",
            *_clean_lines(self.clean),
            f"not known: {'' if self.clean is not None and self.clean.data == CLEAN_DATA else UNSEEN}{OTHER_POISON}",
            f"search: {self.reason} after {self.evaluations} evaluations ({self.strategy}); {_edit(self.kept)}",
            *([f"time: {sum(self.seconds.values()):.1f} s"] if self.seconds else []),
            *(f"warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def summary(self) -> dict[str, Any]:
        """Everything but the model, the importances and the trace, as plain values for JSON."""
        return {
            "verdict": self.verdict,
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
            "wrong_members": self.wrong_members,
            "clean_accuracy": None if self.clean is None else self.clean.summary(),
            "kept_step": None if self.kept is None else asdict(self.kept),
        }


def _clean_lines(clean: CleanAccuracy | None) -> list[str]:
    """Clean accuracy, and that of the classes that lost most."""
    if clean is None:
        return ["clean accuracy: not measured (clean_loader= measures it)"]
    lines = [f"clean accuracy: {clean.before:.1%} -> {clean.after:.1%} on {clean.data}"]
    fallen = sorted(clean.by_class.items(), key=lambda item: item[1].after - item[1].before)
    parts = [f"{label}: {c.before:.0%} -> {c.after:.0%} of {c.samples}" for label, c in fallen if c.after < c.before]
    more = f" and {len(parts) - CLASSES} more" if len(parts) > CLASSES else ""
    return lines + ([f"  classes that lost most: {', '.join(parts[:CLASSES])}{more}"] if parts else [])


def _edit(kept: Step | None) -> str:
    return "the model is as it was" if kept is None else f"{kept.dampened:,} weights dampened, α = {kept.alpha:.4g}"
