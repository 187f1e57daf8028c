"""Result of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..utils.cost import Cost

UNLEARNT = "the suspects have lost the poison's labels and clean accuracy was kept"
STILL_POISONED = "some suspects still have the poison's labels after the last step"
DAMAGED = "clean accuracy was lost"
NO_STEP = "no step made the model better"
NOTHING_NEW = "no suspect has another label than the one that it was trained with"
DIVERGED = "the loss or the weights were no longer finite"

FEWEST_OF_CLASS = 20  # samples by which a class's accuracy is worth a word


@dataclass(frozen=True)
class Evaluation:
    """The model after a number of steps.

    Attributes:
        step: Steps done; 0 is the given model.
        rate: Relative learning rate of the last step.
        loss: Mean loss of the batches since the evaluation before, in nats where it is the cross-entropy.
        found_accuracy: Share of S_f that has the label that it was trained with.
        poison_accuracy: The same of what decides: the suspects kept out of the fine-tuning, or all with a new label.
        clean_accuracy: Share of the clean samples kept out that have their label.
        clean_change: Estimated change of clean test accuracy since step 0, in points.
        clean_error: Its standard error, in points.
    """

    step: int
    rate: float
    loss: float
    found_accuracy: float
    poison_accuracy: float
    clean_accuracy: float
    clean_change: float
    clean_error: float


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of a class's clean samples that were kept out, before and after.

    Attributes:
        label: Of the class.
        samples: Of it.
        before: Share that the given model gets right.
        after: Share that the model that is given back gets right.
    """

    label: int
    samples: int
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.label}, {self.before:.1%} -> {self.after:.1%} of {self.samples} samples"


@dataclass
class FineTuned:
    """A fine-tuned model, and how it came about.

    Attributes:
        model: The model, in the mode that it was given in; the caller's own where `inplace` was asked for.
        trace: Every evaluation, from the given model to the last step.
        kept: Which of them the model is of, a place in `trace`.
        reason: Why the fine-tuning ended as it did.
        judged_by: What clean accuracy was measured on, and on how many samples.
        warnings: What deserves a second look.
        cost: Samples that went through the model.
        seconds: Wall-clock time.
        plan: Batch size, suspects per batch, steps, and how many samples and suspects were kept out.
        by_class: Clean accuracy of each class of which there are samples among those that it is measured on.
    """

    model: nn.Module
    trace: list[Evaluation]
    kept: int
    reason: str
    judged_by: str
    warnings: list[str] = field(default_factory=list)
    cost: Cost = Cost()
    seconds: float = 0.0
    plan: dict[str, Any] = field(default_factory=dict)
    by_class: list[ClassAccuracy] = field(default_factory=list)

    @property
    def before(self) -> Evaluation:
        """The given model."""
        return self.trace[0]

    @property
    def after(self) -> Evaluation:
        """The model that is given back."""
        return self.trace[self.kept]

    @property
    def worst_class(self) -> ClassAccuracy | None:
        """The one that lost most, of those with `FEWEST_OF_CLASS` samples; None where no such class lost anything."""
        known = [entry for entry in self.by_class if entry.samples >= FEWEST_OF_CLASS and entry.after < entry.before]
        return min(known, key=lambda entry: entry.after - entry.before, default=None)

    @property
    def healthy(self) -> bool:
        """Whether the poison went and clean accuracy stayed."""
        return self.reason == UNLEARNT
