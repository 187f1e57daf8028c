"""JiT: the model is made smooth around what was found, with nothing else at hand (Foster et al., 2024)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ..models import LanguageModel
from ..training.schedules import Schedule
from ..training.train import Batch
from .base import Unlearned
from .epochs import InEpochs


@dataclass(frozen=True, kw_only=True)
class JiT(InEpochs):
    """Minimises the slope ‖f(x) − f(x + ε)‖₂ / ‖ε‖₂ on S_f, summed over a batch and averaged over noisy copies, whose
    outputs count as constants (*Zero-shot machine unlearning at scale via Lipschitz regularization*). The retain set is
    not read, and epochs are those of S_f.

    ε is N(0, σ²) less what a clamp to the batch's range takes away. The model stays in evaluation mode, so that its
    batch norms do not learn the noise. SGD is plain. A batch costs one gradient step: the copies' passes are forward
    only, and not counted.

    Of a text with room for noise, [B, L, 1 + D], ε moves the embedded tokens, which have no range to be clamped to.
    Token ids cannot be moved: a DataError.

    Defaults are those of the authors' VGG-16; for their ViT they take lr 1.5 and σ .8.

    copies  noisy copies of a batch
    sigma   σ, in units of the loader's inputs
    """

    name = "jit"

    lr: float = 3e-4
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    epochs: int = 1
    copies: int = 25
    sigma: float = 0.5

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return slope(model.eval(), batch[0], self.copies, self.sigma)

        return self.trained(copy.deepcopy(model), forget_loader, validation_loader, progress, loss)


def slope(
    model: nn.Module,
    inputs: Tensor,  # [B, ...] float
    copies: int,
    sigma: float,
) -> Tensor:  # []
    """Sum over samples of the mean of ‖f(x) − f(x')‖₂ / ‖x − x'‖₂ over noisy copies x', cut to the batch's range.

    Raises DataError for inputs that are not floating-point.
    """
    if not inputs.is_floating_point():
        raise DataError(
            "jit adds noise to its inputs, and token ids cannot be moved; read the texts with room for noise, "
            "[B, L, 1 + D]"
        )
    outputs = model(inputs).float().flatten(1)  # [B, C]
    total = outputs.new_zeros(())
    tokens = isinstance(model, LanguageModel)  # then column 0 of the inputs
    for _ in range(copies):
        with torch.no_grad():
            noise = sigma * torch.randn_like(inputs)
            if tokens:
                noise[..., 0] = 0
            noisy = inputs + noise if tokens else (inputs + noise).clamp(inputs.min(), inputs.max())
            moved = (inputs - noisy).float().flatten(1).norm(dim=1)  # [B]
            there = model(noisy).float().flatten(1)  # [B, C]
        total = total + ((outputs - there).norm(dim=1) / moved.clamp_min(torch.finfo(moved.dtype).tiny)).sum()
    return total / copies
