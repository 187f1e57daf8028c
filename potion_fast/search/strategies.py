"""Search strategies: the orders in which candidates are tried. They know neither parameters nor data.

Each takes candidates by growing edits and yields what it tried, in order. Of the candidates tried, the least edited one
that passes is the answer; where accuracy falls with every edit, all of them answer alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from ..distributed import Ranks
from ..errors import SearchError

ALONE = Ranks()
Passes = Callable[[float], bool]  # whether an accuracy on S_f is low enough


class Score(NamedTuple):
    """Accuracy on S_f in [0, 1], and whether all outputs were finite."""

    accuracy: float
    finite: bool = True


class Candidates(Protocol):
    """What a search needs of an edit plan: candidate k is the model dampened at alphas[k].

    Attributes:
        alphas: [K] float32, falling.
    """

    alphas: Tensor

    def apply(self, k: int) -> None:
        """Bring the model to candidate k."""
        ...

    def dampened(self, k: int) -> int:
        """Number of weights that candidate k changes."""
        ...


class Growing(Candidates, Protocol):
    """Candidates that are made on demand."""

    def more(self) -> bool:
        """Make more of them, so that `alphas` is longer; False where there are no more."""
        ...


@dataclass(frozen=True)
class Trial:
    """A candidate, evaluated.

    Attributes:
        k: Its number.
        alpha: α.
        accuracy: Accuracy on S_f, in [0, 1].
        finite: Whether all outputs were finite.
        dampened: Weights that it changes.
        seconds: Wall-clock time of the edit and its evaluation.
    """

    k: int
    alpha: float
    accuracy: float
    finite: bool
    dampened: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """An order in which candidates are tried, and what others need to know of it.

    Attributes:
        name: What `strategy=` chooses it by.
        run: Generator `run(plan, evaluate, passes)` of `Trial`s: `plan` has the candidates, `evaluate()` gives the
            `Score` of the model as it stands, `passes(accuracy)` says whether an accuracy is low enough. `parallel`
            changes the arguments.
        summary: A few words for help texts.
        uses_grid: Whether the candidates are the steps of a schedule of percentiles, in blocks of 64. Otherwise they
            are `Growing`, the weights one by one in order of their ratio, and options of steps are refused.
        jumps: Whether it draws conclusions on candidates that it does not evaluate. Where the accuracies that it saw
            contradict them, a warning says so.
        parallel: "ranks": `run` also takes `ranks` and gives each rank candidates of its own to evaluate. "batch":
            `evaluate(alphas)` gives the `Score`s of the first of these candidates, as many as it takes at once, and
            `plan` is not applied. None: all ranks evaluate each candidate together.
        supports_sharded: Whether it searches a model that FSDP2 has sharded.
        if_start_passes: The strategy that runs in its place where the model passes before any edit.
    """

    name: str
    run: Callable[..., Iterator[Trial]]
    summary: str
    uses_grid: bool = True
    jumps: bool = False
    parallel: Literal["ranks", "batch"] | None = None
    supports_sharded: bool = True
    if_start_passes: Strategy | None = None

    @property
    def tries_every_step(self) -> bool:
        """Whether its trace holds every step of the schedule up to the one that is kept."""
        return self.uses_grid and not self.jumps

    @property
    def trace_unit(self) -> str:
        """What the length of its trace counts, for people: "steps" up to the one that is kept, or "evaluations"."""
        return "steps" if self.tries_every_step and self.parallel != "batch" else "evaluations"


STRATEGIES: dict[str, Strategy] = {}


def register_strategy(strategy: Strategy) -> Strategy:
    """Make a strategy known by its name, to `ptn_search` and everything above it; returns it.

    Raises:
        SearchError: There is one of that name.
    """
    if strategy.name in STRATEGIES:
        raise SearchError(f"there is a strategy {strategy.name!r} already; choose another name")
    STRATEGIES[strategy.name] = strategy
    return strategy


def sequential(
    plan: Candidates, evaluate: Callable[[], Score], passes: Passes, ranks: Ranks = ALONE
) -> Iterator[Trial]:
    """One after the other, until one passes: the public code's search.

    On several ranks as many at once as there are ranks, candidate k on rank k mod their number; what was tried past the
    first that passes is left out, so that the trials are those of one process.
    """
    count = distinct(plan)
    for first in range(0, count, ranks.size):
        k = first + ranks.rank
        with ranks.raising_together():
            own = try_candidate(plan, k, evaluate) if k < count else None
        for trial in ranks.all_gather(own):
            if trial is not None:
                yield trial
                if passes(trial.accuracy):
                    return


SEQUENTIAL = register_strategy(
    Strategy(
        name="sequential",
        run=sequential,
        summary="step by step, as the public code does",
        parallel="ranks",
    )
)


def batched(plan: Candidates, evaluate: Callable[[Tensor], list[Score]], passes: Passes) -> Iterator[Trial]:
    """Several at once, until one of them passes; the plan's model stays as it is."""
    remaining = range(distinct(plan))
    while remaining:
        start = time.perf_counter()
        scores = evaluate(plan.alphas[remaining.start : remaining.stop])
        seconds = (time.perf_counter() - start) / len(scores)
        for k, score in zip(remaining, scores, strict=False):
            yield Trial(k, float(plan.alphas[k]), *score, plan.dampened(k), seconds)
        if any(passes(score.accuracy) for score in scores):
            return
        remaining = remaining[len(scores) :]


register_strategy(
    Strategy(
        name="batched",
        run=batched,
        summary="the same steps, several at once",
        parallel="batch",
        supports_sharded=False,
    )
)


def bisect(plan: Candidates, evaluate: Callable[[], Score], passes: Passes) -> Iterator[Trial]:
    """The last; where it passes, halve the range before it down to one that passes next to one that does not."""
    last = distinct(plan) - 1
    trial = try_candidate(plan, last, evaluate)
    yield trial
    if passes(trial.accuracy):
        yield from halve(plan, -1, last, evaluate, passes)


register_strategy(
    Strategy(
        name="bisect",
        run=bisect,
        summary="the same steps, by halving ranges of 64",
        jumps=True,
        if_start_passes=SEQUENTIAL,  # there is nothing to halve: the first step is the answer
    )
)


def minimal(plan: Growing, evaluate: Callable[[], Score], passes: Passes) -> Iterator[Trial]:
    """Candidates 0, 1, 3, 7, … until one passes, then halve the range before it."""
    low, high = -1, 0
    while True:
        while high >= len(plan.alphas) and plan.more():
            pass
        high = min(high, len(plan.alphas) - 1)
        if high <= low:
            return  # no candidate remains
        trial = try_candidate(plan, high, evaluate)
        yield trial
        if passes(trial.accuracy):
            break
        low, high = high, 2 * high + 1
    yield from halve(plan, low, high, evaluate, passes)


register_strategy(
    Strategy(
        name="minimal",
        run=minimal,
        summary="weight by weight, down to the fewest that do",
        uses_grid=False,
        jumps=True,
        supports_sharded=False,
    )
)


def halve(plan: Candidates, low: int, high: int, evaluate: Callable[[], Score], passes: Passes) -> Iterator[Trial]:
    """Halve the range from `low`, which does not pass or lies before the first, to `high`, which does."""
    while high - low > 1:
        middle = (low + high) // 2
        trial = try_candidate(plan, middle, evaluate)
        yield trial
        low, high = (low, middle) if passes(trial.accuracy) else (middle, high)


def distinct(plan: Candidates) -> int:
    """How many candidates there are up to the first α ≤ 1: those past it are the same model. NaN counts as one."""
    return next((k + 1 for k, alpha in enumerate(plan.alphas.tolist()) if not alpha > 1), len(plan.alphas))


def try_candidate(plan: Candidates, k: int, evaluate: Callable[[], Score]) -> Trial:
    """Bring the model to candidate k and evaluate it."""
    start = time.perf_counter()
    plan.apply(k)
    score = evaluate()
    return Trial(k, float(plan.alphas[k]), *score, plan.dampened(k), time.perf_counter() - start)
