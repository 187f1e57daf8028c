"""The interface of the unlearners: (model, forget loader, retain loader) → the unlearned model and what was done."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch import nn

from ...errors import PotionError
from ...modes import mode_named

LEAST = {"iterations": 1, "epochs": 1, "copies": 1, "budget": 1, "k": 1}  # of numbers; all others are at least 0
MOST = {"beta": 1}
ABOVE_ZERO = ("lr", "rates", "temperature", "dampening", "sigma")


@dataclass
class Unlearned:
    """What an unlearner gives back.

    model           the unlearned model, in evaluation mode; a model of its own, the caller's is as it was
    method          the unlearner's registered name
    trace           what was done, in order: `Step`s of a search, `Setting`s of a grid, `Epoch`s of a training or
                    `Trial`s of learning rates
    kept            the entry of the trace whose model it is; None where the model was left alone
    gradient_steps  batches whose gradients were taken: those of optimiser steps, a batch of the retain set and one of
                    S_f each for itself, and those of a pass for importances. Where learning rates were tried, of the
                    training that is kept; the trials tell the others'
    seconds         wall-clock time by phase
    report          what the method itself gave back: a `Result`, a `Grid` or a `TrainingReport`
    warnings        what deserves a second look, as sentences
    learning_rate   base rate of the training that is kept; None without training
    """

    model: nn.Module
    method: str
    trace: list[Any] = field(default_factory=list)
    kept: Any = None
    gradient_steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    report: Any = None
    warnings: list[str] = field(default_factory=list)
    learning_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unlearner(ABC):
    """One method with its settings, which are fields; equal seeds and loaders give equal weights.

    mode  "default", "reference" (the public code) or "paper" (as printed): fills in what is left None
    seed  of all random numbers; the generators of torch, NumPy and Python go on afterwards from where they were. A
          loader with a generator of its own goes on in it: make a new one to repeat a run

    Raises PotionError for a setting of the wrong type or out of range.
    """

    name: ClassVar[str]

    mode: str = "default"
    seed: int = 0

    def __post_init__(self) -> None:
        mode_named(self.mode)
        for each in fields(self):
            value, default = getattr(self, each.name), each.default
            if isinstance(default, bool) or not isinstance(default, (int, float)):
                continue
            self.check_number(each.name, value, int if isinstance(default, int) else float)

    def check_number(self, name: str, value: Any, kind: type[int] | type[float]) -> None:
        """Raise PotionError unless this is a value that the setting may have: a float may be given as an int."""
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise PotionError(f"{self.name}: {name} must be a {kind.__name__}, not {value!r}")
        least, most = LEAST.get(name, 0), MOST.get(name, math.inf)
        if not math.isfinite(value) or value < least or (value == 0 and name in ABOVE_ZERO):
            above = "above" if name in ABOVE_ZERO else "at least"
            raise PotionError(f"{self.name}: {name} must be finite and {above} {least}, not {value}")
        if value > most:
            raise PotionError(f"{self.name}: {name} must be at most {most}, not {value}")

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        *,
        evaluation_loader: Iterable[Any] | None = None,
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        """Unlearn S_f. The caller's model is not changed.

        model              on its device, to which the batches are moved
        forget_loader      S_f, the poisoned samples that were found, with the labels they were trained with: batches
                           (input [B, ...], label [B], ...)
        retain_loader      the training data without S_f
        evaluation_loader  S_f, for the methods that look at its accuracy, where it should differ from forget_loader
        validation_loader  data with true labels, for the methods that choose by accuracy
        progress           show progress bars

        Raises DataError (an empty loader), ModelError, PotionError (a loader that the settings ask for is missing).
        """
