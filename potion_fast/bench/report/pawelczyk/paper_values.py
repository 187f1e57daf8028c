"""The numbers that Pawelczyk et al. print, from paper_values.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PRINTED = Path(__file__).with_name("paper_values.csv")


@dataclass(frozen=True)
class PawelczykValue:
    """A test accuracy of the paper's table 2, in percent.

    Attributes:
        row: as the paper names it; "no unlearning" is in the caption.
        method: this project's name.
        size: percent of the training set that are poisoned; None where the paper prints one value for all.
        budget: as a share of the training; None where there is none.
        mean: the printed value.
    """

    row: str
    method: str
    size: float | None
    budget: float | None
    mean: float


@cache
def printed() -> tuple[PawelczykValue, ...]:
    """All of them, in the paper's order."""
    with PRINTED.open(newline="", encoding="utf-8") as file:
        return tuple(
            PawelczykValue(
                **{name: line[name] for name in ("row", "method")},
                size=float(line["size"]) if line["size"] else None,
                budget=float(line["budget"]) if line["budget"] else None,
                mean=float(line["mean"]),
            )
            for line in csv.DictReader(file)
        )


def of_paper(method: str, size: float | None, budget: float | None) -> PawelczykValue | None:
    """One of table 2; None where the paper prints none."""
    for value in printed():
        if value.method == method and value.budget == budget and value.size in (None, size):
            return value
    return None
