"""What the unlearners share whose length is given in epochs, and those of paper B's settings."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ..training.schedules import Schedule
from .finetuning import Trained


@dataclass(frozen=True, kw_only=True)
class InEpochs(Trained):
    """One whose length is given in epochs.

    iterations  None: so many as the epochs have
    epochs      passes over the loader that is trained on, where neither a budget nor iterations are given
    """

    iterations: int | None = None
    epochs: int = 10

    def length(self, loader: Iterable[Any]) -> int:
        if self.budget is None and self.iterations is None:
            return self.in_epochs(loader)
        return super().length(loader)

    def in_epochs(self, loader: Iterable[Any]) -> int:
        """Iterations of the epochs."""
        return self.epochs * batches_of(loader, self.name)


@dataclass(frozen=True, kw_only=True)
class Pawelczyk(InEpochs):
    """One with paper B's settings (appendix C.2.1): SGD at a constant rate, for a tenth of a training's 100 epochs."""

    lr: float = 1e-3
    schedule: Schedule = "constant"


def batches_of(loader: Iterable[Any], name: str) -> int:
    """Batches of a pass. Raises DataError for a loader that does not know."""
    if not isinstance(loader, Sized):
        raise DataError(f"{name}: the loader does not know its length in batches; give iterations or a budget")
    if not len(loader):
        raise DataError(f"{name}: the loader gave no batch; training needs at least one")
    return len(loader)
