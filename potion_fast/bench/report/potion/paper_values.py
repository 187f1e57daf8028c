"""The numbers that *Potion* prints, from paper_values.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PRINTED = Path(__file__).with_name("paper_values.csv")


@dataclass(frozen=True)
class PotionValue:
    """A number of the paper.

    Attributes:
        where: "table 1" or "section 5.3".
        part: "found" (10 to 100 % of S_m), "one-shot" or "all found"; of times: the data.
        row: as the paper names it; the SSD of its PTN search is "PTN SSD" here.
        method: this project's name.
        s_step: where the paper names one.
        measure: "poison_healed" in percent, "model_damage" in points, "seconds", or of two methods "healed_gain"
            and "damage_share" in percent.
        mean: the printed value.
        spread: the standard deviation over scenarios that is printed with it.
    """

    where: str
    part: str
    row: str
    method: str
    s_step: float | None
    measure: str
    mean: float
    spread: float | None


@cache
def printed() -> tuple[PotionValue, ...]:
    """All of them, in the paper's order."""
    with PRINTED.open(newline="", encoding="utf-8") as file:
        return tuple(
            PotionValue(
                **{name: line[name] for name in ("where", "part", "row", "method", "measure")},
                s_step=float(line["s_step"]) if line["s_step"] else None,
                mean=float(line["mean"]),
                spread=float(line["spread"]) if line["spread"] else None,
            )
            for line in csv.DictReader(file)
        )


def of_paper(where: str, part: str, method: str, measure: str, s_step: float | None = None) -> PotionValue | None:
    """One of them; None where the paper prints none. `s_step` is asked of table 8 alone."""
    for value in printed():
        if (value.where, value.part, value.method, value.measure) != (where, part, method, measure):
            continue
        if s_step is None or value.s_step in (None, s_step):
            return value
    return None
