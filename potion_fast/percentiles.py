"""Thresholds: percentiles of the ratios Ω_f / Ω_r (*Potion*, eq. 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from . import ops
from .distributed import Group, Ranks
from .distributed.percentiles import select_shards
from .errors import ImportanceError, SearchError
from .importances import Importance


def percentile_of(s: float) -> float:
    """The percentile p = 100 − ln(1 + 100 · s), in float64 (eq. 7).

    The paper does not name the base; the public code has e. Not log1p: the last bits decide which weights are selected.
    """
    return float(100 - np.log(np.float64(1 + 100 * s)))


def schedule(share: float, b_start: float, s_step: float) -> Iterator[tuple[float, float]]:
    """The sequence (s, p) of a PTN search: s = share · b_start, then s ← s · s_step (algorithm 1).

    Args:
        share: |S_f| / |S_tr|, in (0, 1].
        b_start: Above 0; below 1 the share is divided by 1 / b_start, so that 1/25 gives the bits of the public code's
            ÷ 25.
        s_step: Above 1.

    Returns:
        An iterator that ends where p would fall below 0.

    Raises:
        SearchError: A share out of range.
    """
    if not 0 < share <= 1:
        raise SearchError(f"the forget set's share of the training data must be in (0, 1], not {share}")
    s = share * b_start if b_start >= 1 else share / (1 / b_start)
    return _growing(s, s_step)


def _growing(s: float, s_step: float) -> Iterator[tuple[float, float]]:
    while (p := percentile_of(s)) >= 0:
        yield s, p
        s *= s_step


def thresholds(
    forget: Importance, retain: Importance, percentiles: Sequence[float] | Tensor, process_group: Group = False
) -> Tensor:
    """α_k, the percentiles p_k of Ω_f / Ω_r over all parameters where that ratio is finite (eq. 7).

    Args:
        forget: Ω_f.
        retain: Ω_r, of the same model, weights, objective and group size.
        percentiles: K numbers in [0, 100].
        process_group: Ranks of torch.distributed, None for all, whose importances are shards, each of its own
            parameters (of a model sharded by FSDP2, or any others): the percentiles are then of all shards together, to
            the bit those of one process that holds all of them, and the same on every rank. A shard may be empty.
            Counts are exchanged, never importances: see `select_shards`. False for this process alone.

    Returns:
        [K] float32 on the importances' device, by linear interpolation, bit-equal to NumPy's nanpercentile of the
        float32 ratios at a float64 percentile; NaN where no ratio is finite.

    Raises:
        ImportanceError: Importances that do not belong together, or are negative or not finite; an error of one rank is
            raised on all.
        SearchError: A percentile out of range.
    """
    ranks = Ranks.of(process_group)
    with ranks.raising_together():
        wanted = checked_percentiles(percentiles)
        f, r = paired_means(forget, retain)
    ranks.check_same({"percentiles": wanted})
    return select_shards(f, r, wanted, ranks) if ranks.size > 1 else ops.select(f, r, wanted)


def checked_percentiles(percentiles: Sequence[float] | Tensor) -> list[float]:
    """The percentiles as float64 numbers; SearchError for one out of range."""
    wanted = [float(p) for p in percentiles]
    for p in wanted:
        if not 0 <= p <= 100:
            raise SearchError(f"percentiles lie in [0, 100], not {p}")
    return wanted


def paired_means(forget: Importance, retain: Importance) -> tuple[Tensor, Tensor]:
    """Mean Ω_f and Ω_r as flat float32 buffers [n], checked to belong together, to be finite and not negative.

    Both are computed and checked once, and cached by the importances.
    """
    forget.check_same(retain)
    for importance, which in ((forget, "forget"), (retain, "retain")):
        if bad := importance.unusable:
            raise ImportanceError(f"the {which} importances of parameter {bad!r} are negative or not finite in float32")
    return forget.mean32, retain.mean32.to(forget.sums.device)
