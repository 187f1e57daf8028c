"""SSD as Goel et al. run it: a grid of α and λ, and validation data to choose by (paper A, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...errors import PotionError
from ...importances import Importance
from ...search import ssd_grid
from ...search.ssd import ALPHAS, DAMPENINGS
from .base import Unlearned
from .dampening import Dampening


@dataclass(frozen=True, kw_only=True)
class SSDGoel(Dampening):
    """The best of 50 settings, all from one pair of importances; see `ssd_grid`. It needs a validation loader.

    alphas      α
    dampenings  λ / α
    """

    name, objective = "ssd-goel", "ssd"

    alphas: Sequence[float] = ALPHAS
    dampenings: Sequence[float] = DAMPENINGS

    def check(self, validation_loader: Iterable[Any] | None) -> None:
        if validation_loader is None:
            raise PotionError(f"{self.name} chooses by accuracy on validation data: pass a validation_loader")

    def edit(
        self,
        model: nn.Module,
        forget: Importance,
        retain: Importance,
        forget_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        self.check(validation_loader)
        assert validation_loader is not None
        grid = ssd_grid(
            model,
            forget,
            retain,
            forget_loader,
            validation_loader,
            alphas=self.alphas,
            dampenings=self.dampenings,
            progress=progress,
        )
        return Unlearned(
            grid.model,
            self.name,
            trace=grid.table,
            kept=grid.best,
            seconds=grid.seconds,
            report=grid,
            warnings=grid.warnings,
        )
