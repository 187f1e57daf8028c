"""JiT: the model is made smooth around S_f, without any other data (Foster et al., 2024)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from ...errors import DataError
from ...utils.copies import copy_model
from ..models import LanguageModel
from ..training.schedules import Schedule
from ..training.train import Batch
from .base import Loaders, Unlearned
from .epochs import EpochFinetuning
from .registry import register_unlearner


@register_unlearner("jit")
class JiT(EpochFinetuning):
    """Minimises the slope ‖f(x) − f(x + ε)‖₂ / ‖ε‖₂ on S_f, summed over a batch and averaged over noisy copies.

    The outputs of the copies count as constants (*Zero-shot machine unlearning at scale via Lipschitz
    regularization*). The retain set is not read, and epochs are those of S_f.

    ε is N(0, σ²) less what a clamp to the batch's range takes away. The model stays in evaluation mode, so that its
    batch norms do not learn the noise. SGD is plain. A batch costs one gradient step: the copies' passes are forward
    only, and not counted.

    Of a text with room for noise, [B, L, 1 + D], ε moves the embedded tokens, which have no range to be clamped to.
    Token ids cannot be moved: a DataError.

    The authors' code clears the gradients once, before the first batch, so that each step is along the sum of all
    gradients so far. In mode "reference" it is so here: a momentum of 1, where none is given.

    Defaults are those of the authors' VGG-16; for their ViT they take lr 1.5 and σ .8.

    Attributes:
        copies: noisy copies of a batch.
        sigma: σ, in units of the loader's inputs.
    """

    lr: PositiveFloat = 3e-4
    momentum: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.0
    schedule: Schedule = "constant"
    epochs: PositiveInt = 1
    copies: PositiveInt = 25
    sigma: PositiveFloat = 0.5

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return slope(model.eval(), batch[0], self.copies, self.sigma)

        adds_up = self.mode == "reference" and "momentum" not in self.model_fields_set
        settings = self.updated(momentum=1.0) if adds_up and self.optimizer == "sgd" else self
        return settings.finetune(copy_model(model), loaders.forget, loaders.validation, progress, loss=loss)


def slope(
    model: nn.Module,
    inputs: Tensor,  # [B, ...] float
    copies: int,
    sigma: float,
) -> Tensor:  # []
    """Sum over samples of the mean of ‖f(x) − f(x')‖₂ / ‖x − x'‖₂ over noisy copies x', cut to the batch's range.

    Args:
        model: the model f.
        inputs: floating-point x, [B, ...].
        copies: noisy copies of the batch.
        sigma: standard deviation of the noise.

    Returns:
        The loss, a scalar; outputs of the copies are constants.

    Raises:
        DataError: inputs that are not floating-point.
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
