"""The three sets of defaults: the library's own, what the public code does, and what the paper prints.

A mode only fills in what the caller left out. The rows on which paper A (*Potion*) and its public code disagree and
that change a result are the fields below; all other differences between them are misprints, named where they occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import SearchError

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
        keep: The epoch of a training that is kept: the last, or the best on the test or a validation set.
    """

    group_size: GroupSize
    b_start: float
    strict: bool
    retain_holds_forget: bool
    unlearnt_step: bool
    augmented_forget: bool
    keep: Literal["last", "test", "validation"]

    def group_size_for(self, found: int) -> GroupSize:
        """The group size for a number of poisoned samples found.

        Never more than that number: S_f would then be averaged over fewer samples than the groups of the training data,
        which inflates every ratio of importances, and too much is dampened.
        """
        return "batch" if self.group_size == "batch" else max(1, min(self.group_size, found))


MODES: dict[str, Mode] = {
    "default": Mode(64, 1 / 25, False, False, False, False, "last"),
    "reference": Mode("batch", 1 / 25, False, False, True, True, "test"),
    "paper": Mode(1, 25.0, True, True, False, False, "validation"),
}


def mode_named(name: str) -> Mode:
    """The mode of that name; SearchError if there is none."""
    if not isinstance(name, str) or name not in MODES:
        raise SearchError(f"unknown mode {name!r}; choose one of {', '.join(MODES)}")
    return MODES[name]
