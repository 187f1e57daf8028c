"""Percentiles of ratios that are spread over processes: counts are exchanged, never the ratios."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops.reference import interpolated, percentile_ranks
from .ranks import Ranks

DIGITS = (11, 7, 7, 6)  # bits of a ratio that are found at a time, from the top; its sign bit is 0
INFINITE = 0x7F8  # the first digit of what is not finite, or below it
PART = 2**18  # ratios at a time


def select_shards(forget: Tensor, retain: Tensor, percentiles: list[float], ranks: Ranks) -> Tensor:
    """`ops.select` over the elements of all ranks together, to the bit.

    Ratios that are not negative lie in the order of their bits. The wanted ones are found digit by digit: every process
    counts its ratios by what follows the digits found so far, and the counts are summed. They are all that is
    exchanged, in four sums of at most 16 KiB + K · 5 KiB together, whatever n is.

    Args:
        forget: [n] float32, this rank's mean importances, none negative; n differs from rank to rank and may be 0.
        retain: [n] float32, alike.
        percentiles: K numbers in [0, 100], the same on every rank.
        ranks: The ranks that hold the importances together.

    Returns:
        [K] float32, the same on every rank; NaN where no rank has a finite ratio.
    """
    lower_bits = sum(DIGITS) - DIGITS[0]
    counts = forget.new_zeros(1 << DIGITS[0], dtype=torch.int64)
    for part in _ratios(forget, retain):
        counts += torch.bincount(part >> lower_bits & len(counts) - 1, minlength=len(counts))
    counts[INFINITE:] = 0
    ranks.all_reduce(counts)
    size = int(counts.sum())
    if not percentiles or not size:
        return forget.new_full((len(percentiles),), torch.nan)
    low, weight = (tensor.to(forget.device) for tensor in percentile_ranks(size, percentiles))  # [K]
    rank = torch.cat([low, (low + 1).clamp(max=size - 1)])  # [2K], from now on among the ratios that begin alike
    found, row, rank = _next_digit(counts[None].expand(len(rank), -1), torch.zeros_like(rank), rank)
    kept = torch.cat(
        [part[part >> lower_bits >= found[0]] for part in _ratios(forget, retain)]
    )  # none below the lowest
    for bits in DIGITS[1:]:
        lower_bits -= bits
        counts = forget.new_zeros(len(found) << bits, dtype=torch.int64)
        for part in kept.split(PART):
            counts += _counts(part, found, bits, lower_bits)
        ranks.all_reduce(counts)
        found, row, rank = _next_digit(counts.view(len(found), -1)[row], found[row], rank)
    a, b = found[row].int().view(torch.float32).chunk(2)
    return interpolated(a, b, weight)


def _ratios(forget: Tensor, retain: Tensor) -> Iterator[Tensor]:
    """Their bits, [PART] int32; −0 as 0."""
    for f, o in zip(forget.split(PART), retain.split(PART), strict=True):
        yield (f / o).add_(0).view(torch.int32)


def _counts(ratios: Tensor, found: Tensor, bits: int, lower_bits: int) -> Tensor:
    """How many ratios [m] that begin with the digits found [T] continue with each digit of `bits` bits.

    Below that digit are `lower_bits` bits more. Flat, [T · 2^bits].
    """
    start = ratios >> (lower_bits + bits)
    row = torch.searchsorted(found, start).clamp_(max=len(found) - 1)  # [m]
    place = (row << bits) + (ratios >> lower_bits & (1 << bits) - 1)
    return torch.bincount(place[found[row] == start], minlength=len(found) << bits)


def _next_digit(counts: Tensor, begin: Tensor, rank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One digit more of 2K wanted ratios.

    Args:
        counts: [2K, D], of the ratios that begin as the wanted one does, by their next digit.
        begin: [2K], the digits found so far.
        rank: [2K], among the ratios that begin so.

    Returns:
        The digits found, each once and rising [T]; the place of each wanted ratio's in them [2K]; the new rank.
    """
    below = counts.cumsum(1)
    digit = (below <= rank[:, None]).sum(1, keepdim=True)  # [2K, 1]
    rank = rank - (below - counts).gather(1, digit).squeeze(1)
    found, row = torch.unique(begin * counts.shape[1] + digit.squeeze(1), return_inverse=True)
    return found, row, rank
