"""What the unlearners share that dampen weights: importances of S_f and of the retain set, then an edit by them."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ...errors import PotionError
from ...importances import Importance, importance
from ...modes import GroupSize, mode_named
from ...utils.batches import count_samples
from ..training.train import seeded
from .base import Unlearned, Unlearner

HALVES = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Dampening(Unlearner):
    """An unlearner that edits weights by their importances; it is done in two parts, so that unlearners with the same
    objective can share the first: `importances`, then `edit`.

    group_size           see `importance`; None: the mode's, never more than the samples of S_f
    amp                  None, "bfloat16" or "float16": the precision of the two passes for importances
    retain_holds_forget  take Ω_r over all of S_tr: S_f's importances are added to the retain set's. None: the mode's,
                         where only "paper" does
    """

    objective: ClassVar[str]

    group_size: GroupSize | None = None
    amp: str | None = None
    retain_holds_forget: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.amp not in HALVES:
            raise PotionError(f"{self.name}: amp must be bfloat16, float16 or None, not {self.amp!r}")

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
        self.check(validation_loader)
        with seeded(self.seed):
            seconds: dict[str, float] = {}
            found: dict[str, Importance] = {}
            steps = 0
            group_size = self.group_size
            if group_size is None:
                group_size = mode_named(self.mode).group_size_for(count_samples(forget_loader))
            for phase, loader in (("forget", forget_loader), ("retain", retain_loader)):  # the cheap one first
                start, counted = time.perf_counter(), Counted(loader)
                settings: dict[str, Any] = {"group_size": group_size, "amp": HALVES[self.amp], "progress": progress}
                found[phase] = importance(model, counted, self.objective, **settings)
                seconds[phase] = time.perf_counter() - start
                steps += counted.batches
            if self.holds_forget:
                found["retain"] = found["retain"].merge(found["forget"])
            loader = forget_loader if evaluation_loader is None else evaluation_loader
            edited = self.edit(model, found["forget"], found["retain"], loader, validation_loader, progress)
        edited.model.eval()
        edited.gradient_steps += steps
        edited.seconds = {**seconds, **edited.seconds}
        return edited

    @property
    def holds_forget(self) -> bool:
        if self.retain_holds_forget is None:
            return mode_named(self.mode).retain_holds_forget
        return self.retain_holds_forget

    def check(self, validation_loader: Iterable[Any] | None) -> None:
        """Raise PotionError where this method needs a validation loader and there is none."""

    @abstractmethod
    def edit(
        self,
        model: nn.Module,
        forget: Importance,
        retain: Importance,
        forget_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        """A copy of the model, edited by importances that are there already.

        forget, retain  of S_f and, as `retain_holds_forget` says, of the training data with or without S_f; of this
                        model, these weights and this objective
        forget_loader   S_f, for its accuracy
        """


class Counted:
    """A loader that counts the batches it gives; for all else it is the loader."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.batches = loader, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.batches += 1
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
