"""The orders in which candidates are tried. They know neither parameters nor data.

Each takes candidates by growing edits and yields what it tried, in order. Of the candidates tried, the least edited one
that passes is the answer; where accuracy falls with every edit, all of them answer alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from ..distributed import Ranks

ALONE = Ranks()
Passes = Callable[[float], bool]  # whether an accuracy on S_f is low enough


class Score(NamedTuple):
    """Accuracy on S_f in [0, 1], and whether all outputs were finite."""

    accuracy: float
    finite: bool = True


class Candidates(Protocol):
    """What a search needs of an edit plan: candidate k is the model dampened at alphas[k]."""

    alphas: Tensor  # [K], falling

    def apply(self, k: int) -> None: ...
    def dampened(self, k: int) -> int: ...


class Growing(Candidates, Protocol):
    """Candidates that are made as they are asked for."""

    def more(self) -> bool:
        """Make more of them, so that `alphas` is longer; False where there are no more."""
        ...


@dataclass(frozen=True)
class Trial:
    """Candidate k, evaluated: α, accuracy on S_f in [0, 1], whether its outputs were finite, weights dampened, and
    wall-clock seconds."""

    k: int
    alpha: float
    accuracy: float
    finite: bool
    dampened: int
    seconds: float


def sequential(
    plan: Candidates, evaluate: Callable[[], Score], passes: Passes, ranks: Ranks = ALONE
) -> Iterator[Trial]:
    """One after the other, until one passes: the public code's search.

    By several ranks as many at once as there are ranks, candidate k on rank k mod their number; what was tried past the
    first that passes is left out, so that the trials are those of one process.
    """
    count = _different(plan)
    for first in range(0, count, ranks.size):
        k = first + ranks.rank
        with ranks.raising_together():
            own = _tried(plan, k, evaluate) if k < count else None
        for trial in ranks.all_gather(own):
            if trial is not None:
                yield trial
                if passes(trial.accuracy):
                    return


def batched(plan: Candidates, evaluate: Callable[[Tensor], list[Score]], passes: Passes) -> Iterator[Trial]:
    """Several at once, until one of them passes; the plan's model stays as it is.

    `evaluate` gets α of the candidates that are left and gives the scores of the first, as many as it takes at once.
    """
    left = range(_different(plan))
    while left:
        start = time.perf_counter()
        scores = evaluate(plan.alphas[left.start : left.stop])
        seconds = (time.perf_counter() - start) / len(scores)
        for k, score in zip(left, scores, strict=False):
            yield Trial(k, float(plan.alphas[k]), *score, plan.dampened(k), seconds)
        if any(passes(score.accuracy) for score in scores):
            return
        left = left[len(scores) :]


def bisect(plan: Candidates, evaluate: Callable[[], Score], passes: Passes) -> Iterator[Trial]:
    """The last; where it passes, halve the range before it down to one that passes next to one that does not."""
    last = _different(plan) - 1
    trial = _tried(plan, last, evaluate)
    yield trial
    if passes(trial.accuracy):
        yield from _between(plan, -1, last, evaluate, passes)


def minimal(plan: Growing, evaluate: Callable[[], Score], passes: Passes) -> Iterator[Trial]:
    """Candidates 0, 1, 3, 7, … until one passes, then halve the range before it."""
    low, high = -1, 0
    while True:
        while high >= len(plan.alphas) and plan.more():
            pass
        high = min(high, len(plan.alphas) - 1)
        if high <= low:
            return  # none is left
        trial = _tried(plan, high, evaluate)
        yield trial
        if passes(trial.accuracy):
            break
        low, high = high, 2 * high + 1
    yield from _between(plan, low, high, evaluate, passes)


def _between(plan: Candidates, low: int, high: int, evaluate: Callable[[], Score], passes: Passes) -> Iterator[Trial]:
    """Halve the range from `low`, which does not pass or lies before the first, to `high`, which does."""
    while high - low > 1:
        middle = (low + high) // 2
        trial = _tried(plan, middle, evaluate)
        yield trial
        low, high = (low, middle) if passes(trial.accuracy) else (middle, high)


def _different(plan: Candidates) -> int:
    """How many candidates there are up to the first α ≤ 1: those past it are the same model. NaN counts as one."""
    return next((k + 1 for k, alpha in enumerate(plan.alphas.tolist()) if not alpha > 1), len(plan.alphas))


def _tried(plan: Candidates, k: int, evaluate: Callable[[], Score]) -> Trial:
    start = time.perf_counter()
    plan.apply(k)
    score = evaluate()
    return Trial(k, float(plan.alphas[k]), *score, plan.dampened(k), time.perf_counter() - start)
