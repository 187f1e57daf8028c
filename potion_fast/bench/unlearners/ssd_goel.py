"""SSD as Goel et al. run it: a grid of α and λ, and validation data to choose by (*Potion*, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from typing_extensions import override

from ...errors import PotionError
from ...importances import Importance
from ...search import ssd_grid
from ...search.ssd import ALPHAS, DAMPENINGS
from .base import Loaders, Unlearned
from .dampening import Dampening
from .registry import register_unlearner


@register_unlearner("ssd-goel")
class SSDGoel(Dampening):
    """The best of 50 settings, all from one pair of importances; see `ssd_grid`. It needs a validation loader.

    Attributes:
        alphas: α.
        dampenings: λ / α.
    """

    objective = "ssd"

    alphas: Sequence[float] = ALPHAS
    dampenings: Sequence[float] = DAMPENINGS

    @override
    def check(self, loaders: Loaders) -> None:
        if loaders.validation is None:
            raise PotionError(f"{self.name} chooses by accuracy on validation data: pass a validation loader")

    @override
    def edit(
        self, model: nn.Module, forget: Importance, retain: Importance, loaders: Loaders, progress: bool = False
    ) -> Unlearned:
        self.check(loaders)
        assert loaders.validation is not None
        grid = ssd_grid(
            model,
            forget,
            retain,
            loaders.forget_evaluation,
            loaders.validation,
            alphas=self.alphas,
            dampenings=self.dampenings,
            progress=progress,
        )
        return self.from_search(grid, grid.table, grid.best)
