"""Means over scenarios and seeds, each with its own spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean, stdev
from typing import Any

from ..sweep.rows import Row


@dataclass(frozen=True)
class Average:
    """A measure over some rows.

    Attributes:
        mean: of the scenarios' means over their seeds: every scenario counts once.
        over_scenarios: sample standard deviation of the scenarios' means; None for one scenario.
        over_seeds: sample standard deviation of the seeds' means over the scenarios that all seeds have; None for
            one seed, or where they have none in common.
        scenarios, seeds, count: how many of them, and of rows.
    """

    mean: float
    over_scenarios: float | None
    over_seeds: float | None
    scenarios: int
    seeds: int
    count: int


def average(rows: Iterable[Row], measure: str | Callable[[Row], float | None]) -> Average | None:
    """Of the rows that have this measure, a field or what a function gives; None where none has."""
    read = measure if callable(measure) else attrgetter(measure)
    values: dict[Any, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if (value := read(row)) is not None:
            values[row.scenario][row.seed].append(value)
    if not values:
        return None
    of_one = {scenario: {seed: fmean(group) for seed, group in seeds.items()} for scenario, seeds in values.items()}
    seeds = sorted({seed for group in of_one.values() for seed in group})
    of_scenarios = [fmean(group.values()) for group in of_one.values()]
    shared = [group for group in of_one.values() if len(group) == len(seeds)]
    of_seeds = [fmean(group[seed] for group in shared) for seed in seeds] if shared else []
    count = sum(len(group) for per_seed in values.values() for group in per_seed.values())
    return Average(fmean(of_scenarios), _spread(of_scenarios), _spread(of_seeds), len(of_one), len(seeds), count)


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def common(*groups: Sequence[Row]) -> list[list[Row]]:
    """The rows of each group whose scenario and seed every group has."""
    keys = set.intersection(*({(row.scenario, row.seed) for row in rows} for rows in groups))
    return [[row for row in rows if (row.scenario, row.seed) in keys] for rows in groups]
