"""Base class of the unlearners that dampen weights: importances of S_f and of the retain set, then an edit by them."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ...importances import Importance, importance
from ...importances.objectives import resolve_in_mode
from ...modes import GroupSize, mode_named
from ...search import Grid, Result
from ...utils.batches import count_samples
from .base import Loaders, Unlearned, Unlearner

PRECISIONS = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Dampening(Unlearner):
    """An unlearner that edits weights by their importances.

    It is done in two parts, so that unlearners with the same objective can share the first: the two passes for
    importances, then `edit`.

    Attributes:
        group_size: see `importance`; None: the mode's, never more than the samples of S_f.
        amp: None, "bfloat16" or "float16": the precision of the two passes for importances.
        retain_holds_forget: take Ω_r over all of S_tr: S_f's importances are added to the retain set's. None: the
            mode's, where only "paper" does.
        objective: of the importances, of the class.
    """

    objective: ClassVar[str]

    group_size: GroupSize | None = None
    amp: Literal["bfloat16", "float16"] | None = None
    retain_holds_forget: bool | None = None

    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        """Two passes for importances, then the edit."""
        self.check(loaders)
        seconds: dict[str, float] = {}
        importances: dict[str, Importance] = {}
        gradient_steps = 0
        group_size = self.group_size
        if group_size is None:
            group_size = mode_named(self.mode).group_size_for(count_samples(loaders.forget))
        for phase, loader in (("forget", loaders.forget), ("retain", loaders.retain)):  # the cheap one first
            start, counting = time.perf_counter(), CountingLoader(loader)
            importances[phase] = importance(
                model,
                counting,
                resolve_in_mode(self.objective, None, self.mode),
                group_size=group_size,
                amp=PRECISIONS[self.amp],
                progress=progress,
            )
            seconds[phase] = time.perf_counter() - start
            gradient_steps += counting.batches
        if self.holds_forget:
            importances["retain"] = importances["retain"].merge(importances["forget"])
        unlearned = self.edit(model, importances["forget"], importances["retain"], loaders, progress)
        unlearned.model.eval()
        unlearned.gradient_steps += gradient_steps
        unlearned.seconds = {**seconds, **unlearned.seconds}
        return unlearned

    @property
    def holds_forget(self) -> bool:
        """Whether Ω_r is taken over all of S_tr."""
        if self.retain_holds_forget is None:
            return mode_named(self.mode).retain_holds_forget
        return self.retain_holds_forget

    def check(self, loaders: Loaders) -> None:
        """Check, before anything is read, that the loaders that the method needs are there.

        Raises:
            PotionError: one is missing.
        """

    @abstractmethod
    def edit(
        self, model: nn.Module, forget: Importance, retain: Importance, loaders: Loaders, progress: bool = False
    ) -> Unlearned:
        """Edit a copy of the model by importances that are there already.

        Args:
            model: the poisoned model.
            forget: importances of S_f; of this model, these weights and this objective.
            retain: those of the training data, with or without S_f as `retain_holds_forget` says.
            loaders: S_f, for its accuracy, and validation data for the methods that choose by them.
            progress: show progress bars.

        Returns:
            The copy and what was done.
        """

    def from_search(self, report: Result | Grid, trace: list[Any], kept: Any) -> Unlearned:
        """What `edit` gives back after a search.

        Args:
            report: the search's own result.
            trace: its steps or settings.
            kept: the one of them whose model it is; None where the model is unchanged.
        """
        return Unlearned(
            report.model,
            self.name,
            trace=trace,
            kept=kept,
            seconds=report.seconds,
            report=report,
            warnings=report.warnings,
        )


class CountingLoader:
    """A loader that counts the batches it gives, in `batches`; for all else it is the loader."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.batches = loader, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.batches += 1
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
