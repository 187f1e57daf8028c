"""Poison among the samples of one label, from those of them that were found."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .discriminant import Background, Mask
from .label_result import LabelResult
from .label_space import LabelSpace

POISONS = 4  # looked for in one label


def examine(
    samples: Tensor, found: Tensor, background: Background, rate: float, *, of_two: bool = False
) -> LabelResult:
    """Call samples of one label poison, so that the expected share of false ones beyond S_f is at most the rate.

    Args:
        samples: float32 [n, D], features of the label's samples.
        found: Rows of S_f, int64 [F].
        background: From other labels.
        rate: False discovery rate.
        of_two: The label is one of two.
    """
    is_found = np.zeros(len(samples), dtype=bool)
    is_found[found.numpy()] = True
    if is_found.all():
        return _only_found(is_found, "no other samples have this label")
    space = LabelSpace.of(samples, found, background)
    if space is None:
        return _only_found(is_found, "the features of this label's samples are all the same")
    result: LabelResult | None = None
    seeds = is_found.copy()
    for _ in range(POISONS):  # members that do not fit may be of another poison with this label
        taken = result.called if result else np.zeros(len(samples), dtype=bool)
        group = space.group(seeds, is_found, taken, rate, of_two=of_two)
        if group is None:
            break
        result = group if result is None else _joined(result, group)
        seeds = is_found & ~result.called
        if seeds.sum() < 3:
            break
    return result or _only_found(
        is_found, "the found samples do not stand apart from the others of this label; no more are called"
    )


def _joined(first: LabelResult, second: LabelResult) -> LabelResult:
    """Two poisons of one label; a sample has the scores of the first, unless it is called for the second."""
    take = second.called & ~first.called
    return LabelResult(
        np.where(take, second.scores, first.scores),
        np.where(take, second.p_values, first.p_values),
        first.called | second.called,
        min(1.0, first.share + second.share),
        min(first.separation, second.separation),
        first.false + second.false,
        "the found samples are of several poisons",
    )


def _only_found(found: Mask, note: str) -> LabelResult:
    unknown = np.full(len(found), np.nan)
    return LabelResult(unknown, unknown.copy(), found.copy(), float(found.mean()), 0.0, note=note, doubtful=True)
