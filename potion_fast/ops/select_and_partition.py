"""The operation `select_and_partition`: thresholds and the weights that they change, in one read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._checks import check_dampening, check_flat, check_percentiles
from ._dispatch import kernel_for, register
from .native import native
from .partition import empty_groups, partition_cpu, partition_cuda
from .select import select_cpu, select_cuda


def select_and_partition(
    forget: Tensor, retain: Tensor, percentiles: Sequence[float], dampening: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`select`, and `partition` by the thresholds found, in one read of the importances (eq. 7 and 1).

    Args:
        forget: [n] float32, Ω_f: mean importances on the forget set.
        retain: [n] float32, Ω_r: mean importances on the retain set.
        percentiles: K numbers in [0, 100].
        dampening: λ, as for `partition`.

    Returns:
        The thresholds [K], then what `partition` returns: index, forget, retain [m] and starts [K + 1].

    Raises:
        ImportanceError: The tensors do not fit together, a percentile is out of range or λ is below 0.
    """
    return torch.ops.potion_fast.select_and_partition(forget, retain, [float(p) for p in percentiles], float(dampening))


def _check(forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float) -> None:
    check_flat("select_and_partition", forget=forget, retain=retain)
    check_percentiles("select_and_partition", percentiles)
    check_dampening("select_and_partition", dampening)


def _select_and_partition(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check(forget, retain, percentiles, dampening)
    kernel = kernel_for("select_and_partition", forget.device)
    return kernel(forget.contiguous(), retain.contiguous(), percentiles, dampening)


def _fake(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check(forget, retain, percentiles, dampening)
    return forget.new_empty(len(percentiles)), *empty_groups(forget, len(percentiles))


def _cpu(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    alphas, survivors = select_cpu(forget, retain, percentiles)
    return alphas, *partition_cpu(forget, retain, alphas, dampening, survivors)


def _cuda(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if not 0 < len(percentiles) <= native.most_percentiles:
        alphas = select_cuda(forget, retain, percentiles)
        return alphas, *partition_cuda(forget, retain, alphas, dampening)
    alphas = forget.new_empty(len(percentiles))
    return alphas, *partition_cuda(forget, retain, alphas, dampening, percentiles)


register(
    "select_and_partition(Tensor forget, Tensor retain, float[] percentiles, float dampening) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    _select_and_partition,
    _fake,
    reference=reference.select_and_partition,
    cpu=_cpu,
    cuda=_cuda,
)
