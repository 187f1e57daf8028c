"""Each kernel's launch: from checked tensors to addresses, sizes, threads or a stream. `ops.py` has checked them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..errors import ImportanceError
from . import reference
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


def dampen_many_cpu(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    n, candidates = weights.numel(), alphas.numel()
    copies = weights.new_empty(candidates, n)
    pointers = (tensor.data_ptr() for tensor in (copies, weights, forget, retain))
    native.dampen_many_cpu(*pointers, n, alphas.data_ptr(), candidates, dampening, torch.get_num_threads())
    return copies


def select_cpu(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    return _selected(forget, retain, percentiles)[0]


def select_group_cpu(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    alphas, survivors = _selected(forget, retain, percentiles)
    return alphas, *group_cpu(forget, retain, alphas, dampening, survivors)


class _Survivors:
    """Memory for the weights above a bound, `capacity` of n, which the kernel fills as far as there are any."""

    def __init__(self, n: int, capacity: int) -> None:
        self.places = torch.empty(capacity, dtype=torch.int16)  # unsigned
        self.forget, self.retain = torch.empty(capacity), torch.empty(capacity)
        self.parts = torch.empty(_blocks(n), 2, dtype=torch.int64)
        tensors = self.places, self.forget, self.retain, self.parts
        self.addresses = (*(tensor.data_ptr() for tensor in tensors), capacity)


def _blocks(n: int) -> int:
    return -(-n // native.select_block)


def _selected(forget: Tensor, retain: Tensor, percentiles: list[float]) -> tuple[Tensor, _Survivors | None]:
    """α, and what is left above a bound below all of them, unless that would be too much."""
    alphas = torch.empty(len(percentiles))
    if not percentiles:
        return alphas, None
    arrays = forget.data_ptr(), retain.data_ptr(), forget.numel()
    outcome, survivors, threads = native.Selected.missed, None, torch.get_num_threads()
    bound, capacity = native.select_bound_cpu(*arrays, min(percentiles))
    if capacity:
        survivors = _Survivors(forget.numel(), capacity)
        outcome = native.select_kept_cpu(*arrays, bound, percentiles, survivors.addresses, alphas.data_ptr(), threads)
    if outcome == native.Selected.missed:
        survivors = None
        outcome = native.select_all_cpu(*arrays, percentiles, alphas.data_ptr(), threads)
    if outcome == native.Selected.negative:
        return reference.select(forget, retain, percentiles), None
    return alphas, survivors


def group_cpu(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float, survivors: _Survivors | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, candidates = forget.numel(), alphas.numel()
    falling = alphas.sort(descending=True, stable=True).values
    table = torch.empty(_blocks(n), candidates, dtype=torch.int64)
    starts = torch.zeros(candidates + 1, dtype=torch.int64)
    source = (
        *(forget.data_ptr(), retain.data_ptr(), n, survivors and survivors.addresses),
        *(falling.data_ptr(), candidates, dampening, table.data_ptr(), starts.data_ptr()),
    )
    threads = torch.get_num_threads()
    # -∞ · 0 is NaN: such an α selects less than one above it, and groups no longer nest.
    odd = candidates and bool(falling[-1] == -torch.inf)
    if odd or (candidates and not native.count_groups_cpu(*source, threads)):
        return reference.group(forget, retain, alphas, dampening)
    m, wide = int(starts[-1]), n >= 2**31
    index = torch.empty(m, dtype=torch.int64 if wide else torch.int32)
    group_forget, group_retain = torch.empty(m), torch.empty(m)
    if m:
        written = (tensor.data_ptr() for tensor in (index, group_forget, group_retain))
        native.write_groups_cpu(*source, *written, wide, threads)
    return index, group_forget, group_retain, starts


def take_cpu(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    values = torch.empty(index.shape)
    _places(native.take_cpu, "take", parameters, offsets, cuts, index, values)
    return values


def put_cpu(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    _places(native.put_cpu, "put", parameters, offsets, cuts, index, values)


def _places(
    kernel: Any, op: str, parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor
) -> None:
    addresses, sizes = [p.data_ptr() for p in parameters], [p.numel() for p in parameters]
    wide = index.dtype == torch.int64
    threads = torch.get_num_threads()
    if not kernel(addresses, sizes, offsets, cuts, index.data_ptr(), wide, values.data_ptr(), threads):
        raise ImportanceError(f"{op}: a place in index lies outside the parameter that the cuts say it is in.")


def dampen_many_cuda(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    n, candidates = weights.numel(), alphas.numel()
    copies = weights.new_empty(candidates, n)
    pointers = (tensor.data_ptr() for tensor in (copies, weights, forget, retain))
    with torch.cuda.device(weights.device):
        native.dampen_many_cuda(*pointers, n, alphas.data_ptr(), candidates, dampening, _stream(weights))
    return copies


_KEPT_FROM = 1 << 22  # weights; the launches of a sample cost more than to read fewer three times
_WIDE_FROM = 2**31  # weights whose index needs 64 bits


def select_cuda(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    alphas = forget.new_empty(len(percentiles))
    arrays = forget.data_ptr(), retain.data_ptr(), forget.numel()
    with torch.cuda.device(forget.device):
        for start in range(0, len(percentiles), native.most_percentiles):
            block = percentiles[start : start + native.most_percentiles]
            for capacity in _capacities(forget.numel(), 1 - min(block) / 100):
                memory = _select_memory(forget, len(block), capacity)
                where = memory.data_ptr(), alphas[start:].data_ptr(), _stream(forget)
                native.select_cuda(*arrays, block, capacity, *where)
                if not capacity or not _report(memory, 1)[0]:
                    break
    return alphas


def select_group_cuda(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if not 0 < len(percentiles) <= native.most_percentiles:
        alphas = select_cuda(forget, retain, percentiles)
        return alphas, *group_cuda(forget, retain, alphas, dampening)
    alphas = forget.new_empty(len(percentiles))
    return alphas, *group_cuda(forget, retain, alphas, dampening, percentiles)


def group_cuda(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float, percentiles: list[float] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`percentiles`: first find these and write them to `alphas`."""
    n, candidates = forget.numel(), alphas.numel()
    if candidates > native.most_groups:
        return reference.group(forget, retain, alphas, dampening)
    arrays = forget.data_ptr(), retain.data_ptr(), n
    choice = alphas.data_ptr(), candidates, dampening
    with torch.cuda.device(forget.device):
        stream = _stream(forget)
        for capacity in _capacities(n, 1 - min(percentiles) / 100 if percentiles else 0.05):
            memory = _select_memory(forget, candidates, capacity)
            if percentiles:
                native.select_cuda(*arrays, percentiles, capacity, memory.data_ptr(), alphas.data_ptr(), stream)
            native.count_groups_cuda(*arrays, *choice, bool(percentiles), capacity, memory.data_ptr(), stream)
            failed, *sizes = _report(memory, 1 + candidates)  # the only time that the host waits
            if not failed:
                break
        starts = [0, *accumulate(sizes)]
        index = forget.new_empty(starts[-1], dtype=torch.int32 if n < _WIDE_FROM else torch.int64)
        group_forget, group_retain = forget.new_empty(starts[-1]), forget.new_empty(starts[-1])
        written = (tensor.data_ptr() for tensor in (index, group_forget, group_retain))
        wide = index.dtype == torch.int64
        native.write_groups_cuda(*arrays, *choice, starts, capacity, memory.data_ptr(), *written, wide, stream)
    return index, group_forget, group_retain, torch.tensor(starts)


def _capacities(n: int, share: float) -> tuple[int, ...]:
    """How many weights to keep, at first, and 0 where that fails: a margin over the share that lies above the lowest
    percentile, and x/0, which come on top."""
    return (min(n, int(1.25 * share * n) + n // 128 + (1 << 16)), 0) if n >= _KEPT_FROM and share < 1 / 12 else (0,)


def _select_memory(forget: Tensor, candidates: int, capacity: int) -> Tensor:
    size = native.ratios_bytes(forget.numel(), candidates, capacity)
    return torch.empty(size, dtype=torch.uint8, device=forget.device)


def _report(memory: Tensor, numbers: int) -> list[int]:
    return memory[: 8 * numbers].view(torch.int64).tolist()


def take_cuda(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    values = index.new_empty(index.shape, dtype=torch.float32)
    _put_cuda(native.take_cuda, parameters, offsets, cuts, index, values)
    return values


def put_cuda(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    _put_cuda(native.put_cuda, parameters, offsets, cuts, index, values)


def _put_cuda(
    kernel: Any, parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor
) -> None:
    places = [p.data_ptr() for p in parameters], [p.numel() for p in parameters], offsets, cuts
    with torch.cuda.device(index.device):
        kernel(*places, index.data_ptr(), index.dtype == torch.int64, values.data_ptr(), _stream(index))


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream
