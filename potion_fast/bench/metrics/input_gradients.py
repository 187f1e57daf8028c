"""Gradients with respect to the input, of every sample of a batch from one backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import DataError, ModelError
from ...utils.model import evaluating

Differentiated = Callable[[Tensor, Tensor], Tensor]  # logits [B, C] float64, labels [B] -> [B]


def cross_entropy(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B] int64
) -> Tensor:  # [B]
    """The cross-entropy -log p of the label."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def log_odds(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B] int64
) -> Tensor:  # [B]
    """The log odds log(p / (1 - p)) of the label.

    The cross-entropy's gradient is -(1 - p) times this one's: where p is almost 1 it vanishes, and this one does not.
    """
    own = nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(dim=1)


def input_gradients(
    model: nn.Module,
    images: Tensor,  # [B, ...], floating point, on the model's device
    labels: Tensor,  # [B] int64
    function: Differentiated = cross_entropy,
) -> tuple[Tensor, Tensor]:  # [B, ...], [B, C]
    """The gradient of each sample's loss, or of another function, with respect to the sample; and the logits.

    In evaluation mode a sample's loss depends on no other sample, so the gradient of the sum of all losses holds that
    of each. Losses are computed in float64 of the model's logits. Parameters get no gradient.

    Args:
        model: that computes the logits.
        images: samples.
        labels: of the samples.
        function: of logits and labels, whose gradient is taken.

    Returns:
        The gradients, and the logits.

    Raises:
        DataError: images that are not floating point.
        ModelError: the model gives something else than logits [B, C], or its outputs have no gradient.
    """
    if not images.is_floating_point():
        raise DataError(f"a gradient with respect to images needs them in floating point, not {images.dtype}")
    with evaluating(model), torch.enable_grad():
        inputs = images.detach().requires_grad_()
        outputs = model(inputs)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ModelError(f"the model must give logits [B, C] for gradients of its loss, not {given}")
        total = function(outputs.double(), labels).sum()
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)[0] if total.requires_grad else None
    if gradients is None:
        raise ModelError("the model's outputs have no gradient with respect to its inputs")
    return gradients, outputs.detach()
