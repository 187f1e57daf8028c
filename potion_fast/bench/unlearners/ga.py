"""GA: gradient ascent on what was found; paper B's tables call it NGP too (appendix C.2.3)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..training.train import Batch, cross_entropy
from .base import Unlearned
from .epochs import Pawelczyk


@dataclass(frozen=True, kw_only=True)
class GA(Pawelczyk):
    """θ ← θ + η g, where g is the gradient of a batch of S_f; the retain set is not read, and epochs are those of S_f.

    The loss that is minimised is −CE, which has no lower bound: with many steps the model is lost, as in paper B. Its
    rates are 1e-5 and 5e-6.
    """

    name = "ga"

    lr: float = 1e-5

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        return self.trained(copy.deepcopy(model), forget_loader, validation_loader, progress, ascent)


def ascent(model: nn.Module, batch: Batch) -> Tensor:
    """−CE, a mean over the batch."""
    return -cross_entropy(model, batch)
