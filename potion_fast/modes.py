"""The three sets of defaults: the library's own, what the public code does, and what the paper prints.

A mode only fills in what the caller left out. The rows on which *Potion* and its public code disagree and
that change a result are the fields below; all other differences between them are misprints, named where they occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import SearchError
from .utils.did_you_mean import choices_for

GroupSize = int | Literal["batch"]


@dataclass(frozen=True)
class Mode:
    """Defaults of one mode.

    Attributes:
        group_size: Samples whose loss is averaged before |gradient| or gradient² is taken, at most |S_f|.
        b_start: The search starts at s = b_start · |S_f| / |S_tr|.
        strict: Stop at accuracy < ρ · acc₀ (True) or ≤ ρ · acc₀ (False).
        retain_holds_forget: The retain loader holds all of S_tr (True) or S_tr without S_f (False).
        unlearnt_step: If acc₀ = 0: apply the first step all the same (True) or leave the model unchanged (False).
        augmented_forget: S_f is evaluated with the random augmentation of training (True) or without (False).
        float32_accuracy: Accuracies on S_f are compared in float32, where 1/5 does not pass ρ = 0.2 (True).
        square_of_norm: LF is formed as the norm squared (True) or as the sum of squares (False), other bits.
        keep: The epoch of a training that is kept: the last, or the best on the test or a validation set.
    """

    group_size: GroupSize
    b_start: float
    strict: bool
    retain_holds_forget: bool
    unlearnt_step: bool
    augmented_forget: bool
    float32_accuracy: bool
    square_of_norm: bool
    keep: Literal["last", "test", "validation"]

    def group_size_for(self, found: int) -> GroupSize:
        """The group size for a number of poisoned samples found.

        Never more than that number: S_f would then be averaged over fewer samples than the groups of the training data,
        which inflates every ratio of importances, and too much is dampened.
        """
        return "batch" if self.group_size == "batch" else max(1, min(self.group_size, found))

    def passes(self, accuracy: float, initial: float, rho: float, strict: bool) -> bool:
        """Whether an accuracy on S_f ends a search.

        Args:
            accuracy: Of the edited model, in [0, 1].
            initial: acc₀, of the model before.
            rho: ρ.
            strict: As decided; the mode's own is a default.
        """
        if self.float32_accuracy:  # the public code multiplies and compares them in float64
            accuracy, initial = float(np.float32(accuracy)), float(np.float32(initial))
        return accuracy < rho * initial or (accuracy == rho * initial and not strict)


MODES: dict[str, Mode] = {
    "default": Mode(
        group_size=64,
        b_start=1 / 25,
        strict=False,
        retain_holds_forget=False,
        unlearnt_step=False,
        augmented_forget=False,
        float32_accuracy=False,
        square_of_norm=False,
        keep="last",
    ),
    "reference": Mode(
        group_size="batch",
        b_start=1 / 25,
        strict=False,
        retain_holds_forget=False,
        unlearnt_step=True,
        augmented_forget=True,
        float32_accuracy=True,
        square_of_norm=True,
        keep="test",
    ),
    "paper": Mode(
        group_size=1,
        b_start=25.0,
        strict=True,
        retain_holds_forget=True,
        unlearnt_step=False,
        augmented_forget=False,
        float32_accuracy=False,
        square_of_norm=False,
        keep="validation",
    ),
}


def mode_named(name: str) -> Mode:
    """The mode of that name; SearchError if there is none."""
    if not isinstance(name, str) or name not in MODES:
        raise SearchError(f"unknown mode {name!r}; choose one of {choices_for(name, MODES)}")
    return MODES[name]
