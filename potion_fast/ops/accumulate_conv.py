"""The operation `accumulate_conv`: the importance of a convolution's weight, without a gradient per sample."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ImportanceError
from . import reference
from ._dispatch import kernel_for, register
from ._products import check_product, check_product_memory, mark_written, total_addresses
from .native import native


def accumulate_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    square: bool = False,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """As `accumulate_linear` for a convolution of one to three spatial dimensions, zero padding; no columns are stored.

    Args:
        sums: [K, O, C / groups, *kernel] float32 or float64; each [O, C / groups, *kernel] contiguous.
        inputs: [N · samples, C, *spatial], the inputs of the layer; fastest in channels-last memory.
        gradients: [N · samples, O, *output], the gradients at its output.
        samples: The gradient of so many samples is summed before |·| is taken.
        stride: One number per spatial dimension.
        padding: One number per spatial dimension.
        dilation: One number per spatial dimension.
        groups: Groups of channels, as `torch.nn.Conv2d` has them.
        square: Add squares instead of absolute values.
        weights: [K, N] of the dtype of the sums, or None for ones.
        bias: [K, O] of the dtype of the sums, to which Σ_n w[k,n] · |Σ G[n,·,o]| is added; or None.

    Raises:
        ImportanceError: The tensors do not fit together.
        BackendError: POTION_FAST_BACKEND asks for a backend that is not there.
    """
    torch.ops.potion_fast.accumulate_conv(
        sums, inputs, gradients, samples, list(stride), list(padding), list(dilation), groups, square, weights, bias
    )


def _check(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    op, dimensions = "accumulate_conv", sums.dim() - 3
    if not 1 <= dimensions <= 3 or not (inputs.dim() == gradients.dim() == dimensions + 2):
        raise ImportanceError(
            f"{op}: sums {list(sums.shape)}, inputs {list(inputs.shape)} and gradients {list(gradients.shape)} do not "
            "fit [K, O, C / groups, *kernel], [B, C, *spatial] and [B, O, *output] of one to three spatial dimensions."
        )
    geometry = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    for name, (values, least) in geometry.items():
        if len(values) != dimensions or min(values) < least:
            raise ImportanceError(f"{op}: {name} {values} must be {dimensions} numbers of at least {least}.")
    output = [
        (inputs.shape[2 + i] + 2 * padding[i] - dilation[i] * (sums.shape[3 + i] - 1) - 1) // stride[i] + 1
        for i in range(dimensions)
    ]
    batch, channels = inputs.shape[:2]
    if samples < 1 or groups < 1 or batch % samples or sums.shape[1] % groups:
        raise ImportanceError(
            f"{op}: {batch} samples and {sums.shape[1]} outputs do not divide by {samples}, {groups}."
        )
    if channels != groups * sums.shape[2] or list(gradients.shape) != [batch, sums.shape[1], *output]:
        raise ImportanceError(
            f"{op}: inputs {list(inputs.shape)} and gradients {list(gradients.shape)} do not fit sums "
            f"{list(sums.shape)} with {groups} groups; the gradients should be {[batch, sums.shape[1], *output]}."
        )
    check_product(op, sums, inputs, gradients, batch // samples, weights, bias)


def _accumulate_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    _check(sums, inputs, gradients, samples, stride, padding, dilation, groups, square, weights, bias)
    check_product_memory("accumulate_conv", sums, inputs, gradients, weights, bias)
    kernel = kernel_for("accumulate_conv", sums.device)
    inputs, gradients = inputs.detach(), gradients.detach()
    kernel(sums, inputs, gradients, samples, stride, padding, dilation, groups, square, weights, bias)
    mark_written(sums, bias)


def _cpu(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    inputs, gradients = channels_last(inputs, sums.dtype), channels_last(gradients, sums.dtype)
    weights = None if weights is None else weights.contiguous()
    native.accumulate_conv_cpu(
        *total_addresses(sums, weights, bias, square),
        inputs.data_ptr(),  # [N · samples, *spatial, C]
        gradients.data_ptr(),  # [N · samples, *output, O]
        inputs.shape[0] // samples,
        samples,
        inputs.shape[-1],
        gradients.shape[-1],
        groups,
        in_three_dimensions(inputs.shape[1:-1], 1),
        in_three_dimensions(gradients.shape[1:-1], 1),
        in_three_dimensions(sums.shape[3:], 1),
        in_three_dimensions(stride, 1),
        in_three_dimensions(padding, 0),
        in_three_dimensions(dilation, 1),
        sums.dtype == torch.float64,
        torch.get_num_threads(),
    )


def channels_last(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in channels-last order: no copy if they lie so in memory, else a fast one.

    Args:
        tensor: [B, C, *spatial] on the CPU.
        dtype: float32 or float64, the dtype of the result.

    Returns:
        [B, *spatial, C], contiguous.
    """
    tensor = tensor.to(dtype)
    moved = tensor.movedim(1, -1)
    if moved.is_contiguous():
        return moved
    copy, tensor = torch.empty(moved.shape, dtype=dtype), tensor.contiguous()
    batch, channels = tensor.shape[:2]
    native.channels_last_cpu(
        copy.data_ptr(),
        tensor.data_ptr(),
        batch,
        channels,
        tensor.shape[2:].numel(),
        dtype == torch.float64,
        torch.get_num_threads(),
    )
    return copy


def in_three_dimensions(sizes: Sequence[int], fill: int) -> list[int]:
    """[z, y, x] of one to three numbers [..., x]; `fill` replaces missing ones."""
    return [fill] * (3 - len(sizes)) + list(sizes)


def _triton(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    kernels = importlib.import_module("potion_fast.kernels.accumulate_conv")
    geometry = (samples, stride, padding, dilation, groups)
    kernels.accumulate_conv(sums, inputs, gradients, *geometry, square, weights, bias)


register(
    "accumulate_conv(Tensor(a!) sums, Tensor inputs, Tensor gradients, int samples, int[] stride, int[] padding, "
    "int[] dilation, int groups, bool square, Tensor? weights, Tensor(b!)? bias) -> ()",
    _accumulate_conv,
    fake=_check,
    reference=reference.accumulate_conv,
    cpu=_cpu,
    triton=_triton,
)
