"""NGD: gradient descent on the retain set with noise (paper B, appendix C.2.2)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .base import Unlearned
from .epochs import Pawelczyk


@dataclass(frozen=True, kw_only=True)
class NGD(Pawelczyk):
    """θ ← θ − η (g + ξ), ξ ~ N(0, σ²) anew for every weight and step; all else is GD's.

    The noise joins the gradient: weight decay and momentum come after it, as they do after g. It is drawn on the
    model's device, so that another kind of device draws other noise from the same seed.

    variance  σ²; paper B's are 1e-7 and 1e-6
    """

    name = "ngd"

    variance: float = 1e-7

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        def noised(parameters: Sequence[nn.Parameter]) -> None:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(torch.randn_like(parameter.grad), alpha=self.variance**0.5)

        return self.trained(copy.deepcopy(model), retain_loader, validation_loader, progress, adjust=noised)
