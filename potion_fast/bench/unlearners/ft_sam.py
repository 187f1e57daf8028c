"""FT-SAM: fine-tuning on clean samples that looks for flat minima (Zhu et al., *Enhancing Fine-Tuning*, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from typing_extensions import override

from ...utils.copies import copy_model
from ..training.train import Batch, cross_entropy
from .base import Loaders, Unlearned
from .clean_data import CleanFinetuning, clean_samples
from .registry import register_unlearner


@register_unlearner("ft-sam")
class FTSAM(CleanFinetuning):
    """The gradient of each step is taken at θ + ρ T² g / ‖T g‖₂, where g is that at θ and T = diag(|θ|).

    Large weights, which carry triggers, are moved most. A step takes two gradients. Batch norms see each batch twice.

    Attributes:
        rho: ρ.
    """

    cost: ClassVar[int] = 2

    rho: PositiveFloat = 2.0

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        given: list[Tensor] = []

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(cross_entropy(model, batch), parameters, allow_unused=True)
            given[:] = [parameter.detach().clone() for parameter in parameters]
            _perturb(parameters, gradients, self.rho)
            return cross_entropy(model, batch)

        def put_back(parameters: Sequence[nn.Parameter]) -> None:
            moved = [parameter for parameter in parameters if parameter.requires_grad]
            with torch.no_grad():
                for parameter, before in zip(moved, given, strict=True):
                    parameter.copy_(before)

        loader = clean_samples(loaders, self.name)
        return self.finetune(copy_model(model), loader, loaders.validation, progress, loss=loss, adjust=put_back)


def _perturb(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], rho: float) -> None:
    """Add ρ T² g / ‖T g‖₂ to the parameters, in place; nothing where the norm is 0."""
    pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    norm = torch.stack([(p.detach() * g).norm() for p, g in pairs]).norm()
    with torch.no_grad():
        for parameter, gradient in pairs:
            parameter.add_(torch.nan_to_num(rho * parameter.square() * gradient / norm, nan=0.0))
