"""NGD: gradient descent on the retain set with noise (Pawelczyk et al., appendix C.2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat
from torch import nn
from typing_extensions import override

from ...utils.copies import copy_model
from .base import Loaders, Unlearned
from .epochs import PawelczykFinetuning
from .registry import register_unlearner


@register_unlearner("ngd")
class NGD(PawelczykFinetuning):
    """θ ← θ − η (g + ξ), ξ ~ N(0, σ²) anew for every weight and step; all else is GD's.

    The noise joins the gradient: weight decay and momentum come after it, as they do after g. It is drawn on the
    model's device, so that another kind of device draws other noise from the same seed.

    Attributes:
        variance: σ²; Pawelczyk et al.'s are 1e-7 and 1e-6.
    """

    variance: NonNegativeFloat = 1e-7

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        def add_noise(parameters: Sequence[nn.Parameter]) -> None:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(torch.randn_like(parameter.grad), alpha=self.variance**0.5)

        return self.finetune(copy_model(model), loaders.retain, loaders.validation, progress, adjust=add_noise)
