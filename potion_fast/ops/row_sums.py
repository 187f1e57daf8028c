"""The operation `row_sums`: gradients of the scale and the shift of a layer norm."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._checks import check_norm_layer
from ._dispatch import kernel_for, register
from .native import native


def row_sums(inputs: Tensor, gradients: Tensor, eps: float, centred: bool = True) -> tuple[Tensor, Tensor]:
    """Σ_t g[n,t,c] · x̂[n,t,c] and Σ_t g[n,t,c], for the scale and the shift of a layer norm.

    x̂ is the row x[n,t], mean-subtracted if `centred`, divided by √(mean of squares + eps).

    Args:
        inputs: [N, T, d], x: the inputs of the layer, float32 or float64.
        gradients: [N, T, d], g: the gradients at its output, of the same dtype.
        eps: As the layer has it.
        centred: True for LayerNorm, False for RMSNorm.

    Returns:
        [N, d] and [N, d], of the same dtype.

    Raises:
        ImportanceError: The tensors do not fit together.
    """
    return torch.ops.potion_fast.row_sums(inputs, gradients, eps, centred)


def _check(inputs: Tensor, gradients: Tensor) -> None:
    fits = inputs.dim() == 3 and gradients.shape == inputs.shape
    check_norm_layer("row_sums", fits, "[N, T, d] twice", inputs=inputs, gradients=gradients)


def _row_sums(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    _check(inputs, gradients)
    return kernel_for("row_sums", inputs.device)(inputs, gradients, eps, centred)


def _fake(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    _check(inputs, gradients)
    shape = inputs.shape[0], inputs.shape[2]
    return inputs.new_empty(shape), inputs.new_empty(shape)


def _cpu(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    inputs, gradients = inputs.contiguous(), gradients.contiguous()
    groups, rows, width = inputs.shape
    scale, shift = inputs.new_empty(groups, width), inputs.new_empty(groups, width)
    native.row_sums_cpu(
        *(tensor.data_ptr() for tensor in (scale, shift, inputs, gradients)),
        groups,
        rows,
        width,
        eps,
        centred,
        inputs.dtype == torch.float64,
        torch.get_num_threads(),
    )
    return scale, shift


register(
    "row_sums(Tensor inputs, Tensor gradients, float eps, bool centred) -> (Tensor, Tensor)",
    _row_sums,
    _fake,
    reference=reference.row_sums,
    cpu=_cpu,
)
