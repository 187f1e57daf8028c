"""Each kernel's launch: from checked tensors to addresses, sizes, threads or a stream. `ops.py` has checked them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .native import native


def accumulate_cpu(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    pointers, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
    native.accumulate_cpu(
        sums.data_ptr(), pointers, sizes, sums.dtype == torch.float64, square, torch.get_num_threads()
    )


def accumulate_cuda(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    pointers, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
    with torch.cuda.device(sums.device):
        native.accumulate_cuda(sums.data_ptr(), pointers, sizes, sums.dtype == torch.float64, square, _stream(sums))


def accumulate_triton(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    importlib.import_module("potion_fast.kernels.accumulate").accumulate(sums, gradients, square)


def accumulate_linear_cpu(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    inputs, gradients = inputs.to(sums.dtype).contiguous(), gradients.to(sums.dtype).contiguous()
    weights = None if weights is None else weights.contiguous()
    native.accumulate_linear_cpu(
        *_totals(sums, weights, bias, square),
        inputs.data_ptr(),
        gradients.data_ptr(),
        *inputs.shape[:2],
        *sums.shape[1:],
        sums.dtype == torch.float64,
        torch.get_num_threads(),
    )


def accumulate_rows(
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


def accumulate_conv_cpu(
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
        *_totals(sums, weights, bias, square),
        inputs.data_ptr(),  # [N · samples, *spatial, C]
        gradients.data_ptr(),  # [N · samples, *output, O]
        inputs.shape[0] // samples,
        samples,
        inputs.shape[-1],
        gradients.shape[-1],
        groups,
        *(_three(sizes, 1) for sizes in (inputs.shape[1:-1], gradients.shape[1:-1], sums.shape[3:], stride)),
        _three(padding, 0),
        _three(dilation, 1),
        sums.dtype == torch.float64,
        torch.get_num_threads(),
    )


def accumulate_linear_triton(*arguments: Any) -> None:
    importlib.import_module("potion_fast.kernels.accumulate_linear").accumulate_linear(*arguments)


def accumulate_conv_triton(*arguments: Any) -> None:
    importlib.import_module("potion_fast.kernels.accumulate_conv").accumulate_conv(*arguments)


def channel_sums_cpu(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
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


def row_sums_cpu(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
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


def channels_last(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, C, *spatial] as a contiguous [B, *spatial, C]: no copy if it lies so in memory, else a fast one."""
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


def _totals(
    sums: Tensor, weights: Tensor | None, bias: Tensor | None, square: bool
) -> tuple[list[int], list[int], int, bool]:
    """What both products write to, as addresses: sums and bias of every k, and the weights."""
    parts = [[part.data_ptr() for part in written] if written is not None else [] for written in (sums, bias)]
    return parts[0], parts[1], 0 if weights is None else weights.data_ptr(), square


def _three(sizes: Sequence[int], missing: int) -> list[int]:
    """[z, y, x] of one to three spatial dimensions."""
    return [missing] * (3 - len(sizes)) + list(sizes)


def dampen_cpu(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    pointers = weights.data_ptr(), forget.data_ptr(), retain.data_ptr()
    native.dampen_cpu(*pointers, weights.numel(), alpha, dampening, torch.get_num_threads())


def dampen_cuda(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    pointers = weights.data_ptr(), forget.data_ptr(), retain.data_ptr()
    with torch.cuda.device(weights.device):
        native.dampen_cuda(*pointers, weights.numel(), alpha, dampening, _stream(weights))


def dampen_triton(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    importlib.import_module("potion_fast.kernels.dampen").dampen(weights, forget, retain, alpha, dampening)


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream
