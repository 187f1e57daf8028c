"""The operation `partition`: the weights that candidates change, by the first candidate that selects them."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from . import _ratios, reference
from ._checks import check_alphas, check_dampening, check_flat
from ._dispatch import current_stream, kernel_for, register
from .native import native


def partition(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort the weights that some candidate changes by the first candidate, by falling α, that selects them (eq. 1).

    Args:
        forget: [n] float32, Ω_f: mean importances on the forget set.
        retain: [n] float32, Ω_r: mean importances on the retain set.
        alphas: [K] float32, in any order; NaN comes first and selects nothing.
        dampening: λ, rounded to float32; weights whose factor λ · Ω_r / Ω_f is not below 1 are left out, for 0 none.

    Returns:
        The index [m], int32 where n < 2³¹, else int64, forget [m] and retain [m] of those weights, by group, then by
        ascending index; and starts [K + 1], int64 on the CPU: group j is [starts[j], starts[j + 1]).

    Raises:
        ImportanceError: The tensors do not fit together, or λ is below 0.
    """
    return torch.ops.potion_fast.partition(forget, retain, alphas, float(dampening))


def _check(forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> None:
    check_flat("partition", forget=forget, retain=retain)
    check_alphas("partition", alphas, forget.device)
    check_dampening("partition", dampening)


def _partition(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(forget, retain, alphas, dampening)
    read = (tensor.contiguous() for tensor in (forget, retain, alphas))
    return kernel_for("partition", forget.device)(*read, dampening)


def _fake(forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(forget, retain, alphas, dampening)
    return empty_groups(forget, alphas.shape[0])


def empty_groups(forget: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Results of the right dtypes and devices, of a size that torch.compile does not know."""
    m = torch.library.get_ctx().new_dynamic_size()
    index = forget.new_empty(m, dtype=torch.int32 if forget.shape[0] < 2**31 else torch.int64)
    return index, forget.new_empty(m), forget.new_empty(m), torch.empty(candidates + 1, dtype=torch.int64, device="cpu")


def partition_cpu(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float, survivors: _ratios.Survivors | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The C++ kernels, over the arrays or over the survivors that `select_cpu` has kept of them for these α."""
    n, candidates = forget.numel(), alphas.numel()
    falling = alphas.sort(descending=True, stable=True).values
    table = torch.empty(_ratios.count_blocks(n), candidates, dtype=torch.int64)
    starts = torch.zeros(candidates + 1, dtype=torch.int64)
    source = (
        forget.data_ptr(),
        retain.data_ptr(),
        n,
        survivors and survivors.addresses,
        falling.data_ptr(),
        candidates,
        dampening,
        table.data_ptr(),
        starts.data_ptr(),
    )
    threads = torch.get_num_threads()
    # -∞ · 0 is NaN: such an α selects less than one above it, and groups no longer nest.
    odd = candidates and bool(falling[-1] == -torch.inf)
    if odd or (candidates and not native.count_groups_cpu(*source, threads)):
        return reference.partition(forget, retain, alphas, dampening)
    m, int64 = int(starts[-1]), n >= 2**31
    index = torch.empty(m, dtype=torch.int64 if int64 else torch.int32)
    group_forget, group_retain = forget.new_empty(m), forget.new_empty(m)
    if m:
        written = (tensor.data_ptr() for tensor in (index, group_forget, group_retain))
        native.write_groups_cpu(*source, *written, int64, threads)
    return index, group_forget, group_retain, starts


def partition_cuda(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float, percentiles: list[float] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The CUDA kernels; with `percentiles` they first find these and write them to `alphas`."""
    n, candidates = forget.numel(), alphas.numel()
    if candidates > native.most_groups:
        return reference.partition(forget, retain, alphas, dampening)
    arrays = forget.data_ptr(), retain.data_ptr(), n
    choice = alphas.data_ptr(), candidates, dampening
    with torch.cuda.device(forget.device):
        stream = current_stream(forget.device)
        for capacity in _ratios.capacities(n, 1 - min(percentiles) / 100 if percentiles else 0.05):
            memory = _ratios.workspace(forget, candidates, capacity)
            if percentiles:
                native.select_cuda(*arrays, percentiles, capacity, memory.data_ptr(), alphas.data_ptr(), stream)
            native.count_groups_cuda(*arrays, *choice, bool(percentiles), capacity, memory.data_ptr(), stream)
            failed, *sizes = _ratios.read_report(memory, 1 + candidates)  # the only time that the host waits
            if not failed:
                break
        starts = [0, *accumulate(sizes)]
        index = forget.new_empty(starts[-1], dtype=torch.int32 if n < _ratios.INT64_FROM else torch.int64)
        group_forget, group_retain = forget.new_empty(starts[-1]), forget.new_empty(starts[-1])
        written = (tensor.data_ptr() for tensor in (index, group_forget, group_retain))
        int64 = index.dtype == torch.int64
        native.write_groups_cuda(*arrays, *choice, starts, capacity, memory.data_ptr(), *written, int64, stream)
    return index, group_forget, group_retain, torch.tensor(starts)


register(
    "partition(Tensor forget, Tensor retain, Tensor alphas, float dampening) -> (Tensor, Tensor, Tensor, Tensor)",
    _partition,
    _fake,
    reference=reference.partition,
    cpu=partition_cpu,
    cuda=partition_cuda,
)
