"""The operation `row_sums`: gradients of the scale and the shift of a layer norm."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ImportanceError
from . import reference
from ._checks import shape_or_layout
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
    for name, tensor in {"inputs": inputs, "gradients": gradients}.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != inputs.dtype:
            raise ImportanceError(f"row_sums: {name} is {tensor.dtype}; pass both in float32 or in float64.")
        if tensor.device != inputs.device or tensor.layout != torch.strided:
            raise ImportanceError(
                f"row_sums: {name} is {shape_or_layout(tensor)} on {tensor.device}; pass dense tensors."
            )
    if inputs.dim() != 3 or gradients.shape != inputs.shape:
        raise ImportanceError(
            f"row_sums: inputs {list(inputs.shape)} and gradients {list(gradients.shape)} do not fit [N, T, d] twice."
        )


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
