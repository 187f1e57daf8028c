"""Exact unlearning: training again, from the beginning, without what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .trained import FromFresh


@dataclass(frozen=True, kw_only=True)
class EU(FromFresh):
    """An untrained model, trained on the retain set with the settings of the training: the public code's defaults."""

    name = "eu"

    iterations: int = 4000

    def begun(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return self.untrained(model), None
