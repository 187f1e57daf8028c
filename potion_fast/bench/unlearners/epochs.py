"""Base classes of the unlearners that train for epochs, and of those with Pawelczyk et al.'s settings."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

from pydantic import PositiveFloat, PositiveInt
from typing_extensions import override

from ...errors import DataError
from ..training.schedules import Schedule
from .finetuning import Finetuning


class EpochFinetuning(Finetuning):
    """A training whose length is given in epochs.

    Attributes:
        iterations: optimiser steps; None: as many as the epochs have.
        epochs: passes over the loader that is trained on, where neither a budget nor iterations are given.
    """

    iterations: PositiveInt | None = None  # type: ignore[assignment]  # None is allowed here, and read in `length`
    epochs: PositiveInt = 10

    @override
    def length(self, loader: Iterable[Any]) -> int:
        if self.budget is None and self.iterations is None:
            return self.iterations_of_epochs(loader)
        return super().length(loader)

    def iterations_of_epochs(self, loader: Iterable[Any]) -> int:
        """Iterations of all epochs on this loader.

        Args:
            loader: what is trained on.

        Returns:
            Their number.

        Raises:
            DataError: the loader does not know its length, or is empty.
        """
        return self.epochs * count_batches(loader, self.name)


class PawelczykFinetuning(EpochFinetuning):
    """Pawelczyk et al.'s settings (appendix C.2.1): SGD at a constant rate, for a tenth of a training's 100 epochs."""

    lr: PositiveFloat = 1e-3
    schedule: Schedule = "constant"


def count_batches(loader: Iterable[Any], name: str) -> int:
    """Number of batches of a pass.

    Args:
        loader: a loader with a length.
        name: the unlearner's, for errors.

    Returns:
        Its length.

    Raises:
        DataError: the loader does not know its length, or is empty.
    """
    if not isinstance(loader, Sized):
        raise DataError(f"{name}: the loader does not know its length in batches; give iterations or a budget")
    if not len(loader):
        raise DataError(f"{name}: the loader gave no batch; training needs at least one")
    return len(loader)
