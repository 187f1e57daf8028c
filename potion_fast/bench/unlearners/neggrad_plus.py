"""NegGrad+: descent on the retain set and ascent on what was found, in every step (Kurmanji et al., 2023)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..training.train import Batch, cross_entropy
from .base import Unlearned
from .epochs import Pawelczyk
from .pairs import Pairs


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(Pawelczyk):
    """Minimises β · CE(retain) − (1 − β) · CE(S_f) over pairs of batches, each a mean over its batch (paper B, appendix
    C.2.7). An iteration costs two gradient steps.

    Paper B takes the settings of "GD and GA", which differ in the learning rate: here GD's. The authors of NegGrad+
    take 0.01 without weight decay, and β = .95 or .9999.

    beta  β, in [0, 1]
    """

    name, cost = "neggrad-plus", 2

    beta: float = 0.999

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            retain, forget = cross_entropy(model, batch[:2]), cross_entropy(model, batch[2:])
            return self.beta * retain - (1 - self.beta) * forget

        pairs = Pairs(forget_loader, retain_loader)
        return self.trained(copy.deepcopy(model), pairs, validation_loader, progress, loss)
