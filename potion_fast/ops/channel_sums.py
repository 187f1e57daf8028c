"""The operation `channel_sums`: gradients of the scale and the shift of a norm layer with statistics per channel."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._checks import check_norm_layer
from ._dispatch import kernel_for, register
from .native import native


def channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_p g[b,c,p] · (x[b,c,p] − mean[c]) and Σ_p g[b,c,p], for the scale and the shift of a norm layer.

    Args:
        inputs: [B, C, *positions], x: the inputs of the layer, float32 or float64.
        gradients: [B, C, *positions], g: the gradients at its output, of the same dtype.
        mean: [C], of the same dtype.

    Returns:
        [B, C] and [B, C], of the same dtype.

    Raises:
        ImportanceError: The tensors do not fit together.
    """
    return torch.ops.potion_fast.channel_sums(inputs, gradients, mean)


def _check(inputs: Tensor, gradients: Tensor, mean: Tensor) -> None:
    fits = inputs.dim() >= 2 and gradients.shape == inputs.shape and list(mean.shape) == [inputs.shape[1]]
    shapes = "[B, C, *positions] twice and [C]"
    check_norm_layer("channel_sums", fits, shapes, inputs=inputs, gradients=gradients, mean=mean)


def _channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    _check(inputs, gradients, mean)
    return kernel_for("channel_sums", inputs.device)(inputs, gradients, mean)


def _fake(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    _check(inputs, gradients, mean)
    shape = inputs.shape[:2]
    return inputs.new_empty(shape), inputs.new_empty(shape)


def _cpu(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    channels_last = inputs.dim() > 2 and inputs.movedim(1, -1).is_contiguous()
    if channels_last:
        inputs, gradients = inputs.movedim(1, -1), gradients.movedim(1, -1)
    inputs, gradients, mean = inputs.contiguous(), gradients.contiguous(), mean.contiguous()
    batch, channels = inputs.shape[0], len(mean)
    scale, shift = inputs.new_empty(batch, channels), inputs.new_empty(batch, channels)
    native.channel_sums_cpu(
        *(tensor.data_ptr() for tensor in (scale, shift, inputs, gradients, mean)),
        batch,
        channels,
        (inputs.shape[1:-1] if channels_last else inputs.shape[2:]).numel(),
        channels_last,
        inputs.dtype == torch.float64,
        torch.get_num_threads(),
    )
    return scale, shift


register(
    "channel_sums(Tensor inputs, Tensor gradients, Tensor mean) -> (Tensor, Tensor)",
    _channel_sums,
    _fake,
    reference=reference.channel_sums,
    cpu=_cpu,
)
