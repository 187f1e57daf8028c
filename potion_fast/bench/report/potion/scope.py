"""The rows that a table or a figure of *Potion* is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...sweep.rows import Row
from ..methods import attack_label, data_label
from ..papers import has_pawelczyk_rows

CIFAR = ("cifar10", "cifar100")
PAPERS_DATA = (*CIFAR, "imagenette", "imagenet")


@dataclass(frozen=True)
class Scope:
    """What the paper made a table or a figure from.

    Attributes:
        attack, data: of its scenarios.
        preset: start of the names of the presets that are of it, whatever their data is called.
    """

    attack: str
    data: tuple[str, ...]
    preset: str = ""

    def __str__(self) -> str:
        return f"{attack_label(self.attack)} on {' and '.join(map(data_label, self.data))}"

    def has(self, row: Row) -> bool:
        """Whether a row is in scope."""
        if row.attack != self.attack:
            return False
        named = bool(self.preset) and (row.preset or "").startswith((self.preset + "/", self.preset + "-"))
        return named or row.data in self.data or (bool(self.preset) and row.preset == self.preset)


@dataclass(frozen=True)
class Chosen:
    """The rows in a scope.

    Attributes:
        rows: that were chosen.
        stand_in: a description of the data used in place of the paper's; empty where the rows are on the paper's own.
        missing: why there are no rows; empty where there are some.
    """

    rows: list[Row]
    stand_in: str = ""
    missing: str = ""


def choose(rows: Sequence[Row], scope: Scope) -> Chosen:
    """The rows in scope.

    A sweep that has none of the paper's data, such as a trial run, replaces all of them; one that has rows of
    Pawelczyk et al. does not.
    """
    if in_scope := [row for row in rows if scope.has(row)]:
        return Chosen(in_scope)
    attacked = [row for row in rows if row.attack == scope.attack]
    tables = any((row.preset or "").startswith("potion/table") for row in rows)
    if attacked and not tables and not has_pawelczyk_rows(rows) and not any(row.data in PAPERS_DATA for row in rows):
        return Chosen(attacked, " and ".join(data_label(data) for data in dict.fromkeys(row.data for row in attacked)))
    return Chosen([], missing=f"the sweep has no row of {scope}")
