"""Exact unlearning: training again, from the beginning, without what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..training import seeded
from .base import Unlearned
from .trained import FromFresh


@dataclass(frozen=True, kw_only=True)
class EU(FromFresh):
    """An untrained model, trained on the retain set with the settings of the training: the public code's defaults."""

    name = "eu"

    iterations: int = 4000

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
        with seeded(self.seed):
            return self.trained(self.untrained(model), retain_loader, validation_loader, progress)
