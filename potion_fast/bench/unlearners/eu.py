"""Exact unlearning: training again, from the beginning, without what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..training.train import Loss, cross_entropy
from .base import Unlearned
from .finetuning import FromFresh


@dataclass(frozen=True, kw_only=True)
class EU(FromFresh):
    """An untrained model, trained on the retain set with the settings of the training: the public code's defaults.

    loss  what the training minimised, see `train`
    """

    name = "eu"

    iterations: int = 4000
    loss: Loss = cross_entropy

    def begun(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return self.untrained(model), None

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        model, only = self.begun(model)
        return self.trained(model, retain_loader, validation_loader, progress, loss=self.loss, only=only)
