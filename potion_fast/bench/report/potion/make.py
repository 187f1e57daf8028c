"""The first exam, of the paper *Potion*: its tables, ablations and figures from the rows of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...sweep.rows import Row
from ..papers import has_pawelczyk_rows
from ..style import Picture
from .by_forget_size import found_pictures
from .curves import objectives_picture, search_picture
from .distributions import distribution_pictures
from .sensitivity import rho_pictures, step_picture
from .tables import Ablation, Table, ablations, tables
from .times import time_pictures


@dataclass(frozen=True)
class First:
    """What the report of a sweep has of it."""

    tables: list[Table]
    ablations: list[Ablation]
    pictures: list[Picture]


def first(rows: Sequence[Row], models: Path, samples: int) -> First:
    """All of it; of a sweep that sits the second exam only what there are rows for.

    Such a sweep's models are not looked into, unless a preset of this exam trained some of them.

    models   folder of the trained models
    samples  training images that one is measured on, 0: none
    """
    second = has_pawelczyk_rows(rows)
    pictures = [search_picture(rows), objectives_picture(rows), *rho_pictures(rows), *time_pictures(rows)]
    if not second or len({row.share for row in rows}) > 1:
        pictures += found_pictures(rows)
    pictures.append(step_picture(rows))
    if not second or any((row.preset or "").startswith("potion/") for row in rows):
        pictures += distribution_pictures(models, samples)
    made = First(tables(rows), ablations(rows), in_order(pictures))
    if not second:
        return made
    return First(
        _of_own(made.tables),
        [one for one in made.ablations if one.pairs],
        [picture for picture in made.pictures if picture.figure is not None],
    )


def _of_own(tables: Sequence[Table]) -> list[Table]:
    """Those with rows, each set of rows once: a later table of the same is the narrower one, but for that by step."""
    kept: dict[frozenset[int], Table] = {}
    for table in tables:
        rows = [row for line in table.lines for row in line.rows]
        if rows and not (table.over_steps and len({row.s_step for row in rows} - {None}) < 2):
            kept[frozenset(map(id, rows))] = table
    return list(kept.values())


def in_order(pictures: Sequence[Picture]) -> list[Picture]:
    """By the paper's numbers; what has none comes after them as it is."""
    return sorted(pictures, key=lambda picture: (not picture.name.startswith("figure"), _number(picture.name)))


def _number(name: str) -> int:
    digits = name.removeprefix("figure").partition("-")[0]
    return int(digits) if name.startswith("figure") else 0
