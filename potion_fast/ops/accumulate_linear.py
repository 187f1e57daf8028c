"""The operation `accumulate_linear`: the importance of a linear layer's weight, without a gradient per sample."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from ..errors import ImportanceError
from . import reference
from ._dispatch import kernel_for, register
from ._products import check_product, check_product_memory, mark_written, total_addresses
from .native import native


def accumulate_linear(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    square: bool = False,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Add Σ_n w[k,n] · |Σ_t G[n,t,o] · A[n,t,i]|, or its square, to `sums[k,o,i]`, in place (eq. 3 and 4; eq. 1).

    That is the importance of the weight of a linear layer, exact per sample, without a gradient per sample. The CPU
    kernels compute in the dtype of the sums; on CUDA the inputs' own dtype multiplies and float32 sums up, with float32
    inputs as torch.get_float32_matmul_precision() says.

    Args:
        sums: [K, O, I] float32 or float64; each [O, I] contiguous.
        inputs: [N, T, I], A: the inputs of the layer, T rows for each n.
        gradients: [N, T, O], G: the gradients at its output; floating, of the dtype of the inputs.
        square: Add squares instead of absolute values.
        weights: [K, N] of the dtype of the sums, or None for ones.
        bias: [K, O] of the dtype of the sums, to which Σ_n w[k,n] · |Σ_t G[n,t,o]| is added; or None.

    Raises:
        ImportanceError: The tensors do not fit together.
        BackendError: POTION_FAST_BACKEND asks for a backend that is not there.
    """
    torch.ops.potion_fast.accumulate_linear(sums, inputs, gradients, square, weights, bias)


def _check(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    shapes = [list(t.shape) for t in (sums, inputs, gradients)]
    if not (sums.dim() == inputs.dim() == gradients.dim() == 3) or [*shapes[0][1:], *shapes[1][:2]] != [
        gradients.shape[2],
        inputs.shape[2],
        *gradients.shape[:2],
    ]:
        raise ImportanceError(
            f"accumulate_linear: sums {shapes[0]}, inputs {shapes[1]} and gradients {shapes[2]} "
            "do not fit [K, O, I], [N, T, I] and [N, T, O]."
        )
    check_product("accumulate_linear", sums, inputs, gradients, inputs.shape[0], weights, bias)


def _accumulate_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    _check(sums, inputs, gradients, square, weights, bias)
    check_product_memory("accumulate_linear", sums, inputs, gradients, weights, bias)
    kernel = kernel_for("accumulate_linear", sums.device)
    if inputs.shape[1] == 1 and kernel is not reference.accumulate_linear:
        kernel = _single_rows
    kernel(sums, inputs.detach(), gradients.detach(), square, weights, bias)
    mark_written(sums, bias)


def _single_rows(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    """T = 1 on any device: |g · a| = |g| · |a|, so one ordinary matrix product is the sum over all terms."""
    size = torch.square if square else torch.abs
    a, g = (size(t.squeeze(1).to(sums.dtype)) for t in (inputs, gradients))  # [N, I], [N, O]
    for k, total in enumerate(sums):
        weighted = g if weights is None else weights[k, :, None] * g
        total.addmm_(weighted.T, a)
        if bias is not None:
            bias[k] += weighted.sum(0)


def _cpu(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    inputs, gradients = inputs.to(sums.dtype).contiguous(), gradients.to(sums.dtype).contiguous()
    weights = None if weights is None else weights.contiguous()
    native.accumulate_linear_cpu(
        *total_addresses(sums, weights, bias, square),
        inputs.data_ptr(),
        gradients.data_ptr(),
        *inputs.shape[:2],
        *sums.shape[1:],
        sums.dtype == torch.float64,
        torch.get_num_threads(),
    )


def _triton(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    kernels = importlib.import_module("potion_fast.kernels.accumulate_linear")
    kernels.accumulate_linear(sums, inputs, gradients, square, weights, bias)


register(
    "accumulate_linear(Tensor(a!) sums, Tensor inputs, Tensor gradients, bool square, Tensor? weights, "
    "Tensor(b!)? bias) -> ()",
    _accumulate_linear,
    fake=_check,
    reference=reference.accumulate_linear,
    cpu=_cpu,
    triton=_triton,
)
