"""Catastrophic forgetting: training goes on without what was found, in the hope that it fades."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models import last_modules
from ..training import seeded
from .base import Unlearned
from .trained import Trained


@dataclass(frozen=True, kw_only=True)
class CF(Trained):
    """The whole model is trained further on the retain set (k = -1 in the public code)."""

    name = "cf"

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
            return self.trained(copy.deepcopy(model), retain_loader, validation_loader, progress)


@dataclass(frozen=True, kw_only=True)
class CFk(Trained):
    """The last k layers are trained further on the retain set; the others stay as they are, batch norms in evaluation
    mode.

    k  see `last_modules`; the public code's 2 and 4 of ResNet-9, 5 and 13 of WRN-28-10. None: the smaller
    """

    name = "cf-k"

    k: int | Sequence[str] | None = None

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
        end = last_modules(model, self.k)
        with seeded(self.seed):
            return self.trained(copy.deepcopy(model), retain_loader, validation_loader, progress, only=end)
