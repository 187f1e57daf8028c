"""The operation `select`: thresholds as percentiles of the ratios of importances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _ratios, reference
from ._checks import check_flat, check_percentiles
from ._dispatch import current_stream, kernel_for, register
from .native import native


def select(forget: Tensor, retain: Tensor, percentiles: Sequence[float]) -> Tensor:
    """α_k, the percentile p_k of Ω_f / Ω_r over the elements where the ratio is finite (eq. 7).

    Args:
        forget: [n] float32, Ω_f: mean importances on the forget set.
        retain: [n] float32, Ω_r: mean importances on the retain set.
        percentiles: K numbers in [0, 100].

    Returns:
        [K] float32; NaN where no ratio is finite.

    Raises:
        ImportanceError: The tensors do not fit together, or a percentile is out of range.
    """
    return torch.ops.potion_fast.select(forget, retain, [float(p) for p in percentiles])


def _check(forget: Tensor, retain: Tensor, percentiles: list[float]) -> None:
    check_flat("select", forget=forget, retain=retain)
    check_percentiles("select", percentiles)


def _select(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    _check(forget, retain, percentiles)
    return kernel_for("select", forget.device)(forget.contiguous(), retain.contiguous(), percentiles)


def _fake(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    _check(forget, retain, percentiles)
    return forget.new_empty(len(percentiles))


def _cpu(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    return select_cpu(forget, retain, percentiles)[0]


def select_cpu(forget: Tensor, retain: Tensor, percentiles: list[float]) -> tuple[Tensor, _ratios.Survivors | None]:
    """α, and the weights above a bound below all of them, unless that would be too many."""
    alphas = torch.empty(len(percentiles), dtype=torch.float32)
    if not percentiles:
        return alphas, None
    arrays = forget.data_ptr(), retain.data_ptr(), forget.numel()
    outcome, survivors, threads = native.Selected.missed, None, torch.get_num_threads()
    bound, capacity = native.select_bound_cpu(*arrays, min(percentiles))
    if capacity:
        survivors = _ratios.Survivors(forget.numel(), capacity)
        outcome = native.select_kept_cpu(*arrays, bound, percentiles, survivors.addresses, alphas.data_ptr(), threads)
    if outcome == native.Selected.missed:
        survivors = None
        outcome = native.select_all_cpu(*arrays, percentiles, alphas.data_ptr(), threads)
    if outcome == native.Selected.negative:
        return reference.select(forget, retain, percentiles), None
    return alphas, survivors


def select_cuda(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    """α from the CUDA kernels, as many percentiles at a time as they take."""
    alphas = forget.new_empty(len(percentiles))
    arrays = forget.data_ptr(), retain.data_ptr(), forget.numel()
    with torch.cuda.device(forget.device):
        stream = current_stream(forget.device)
        for start in range(0, len(percentiles), native.most_percentiles):
            block = percentiles[start : start + native.most_percentiles]
            for capacity in _ratios.capacities(forget.numel(), 1 - min(block) / 100):
                memory = _ratios.workspace(forget, len(block), capacity)
                native.select_cuda(*arrays, block, capacity, memory.data_ptr(), alphas[start:].data_ptr(), stream)
                if not capacity or not _ratios.read_report(memory, 1)[0]:
                    break
    return alphas


register(
    "select(Tensor forget, Tensor retain, float[] percentiles) -> Tensor",
    _select,
    _fake,
    reference=reference.select,
    cpu=_cpu,
    cuda=select_cuda,
)
