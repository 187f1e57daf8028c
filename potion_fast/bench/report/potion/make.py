"""The part of a report on *Potion*: its tables, ablations and figures, and their sections of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...sweep.rows import Row
from ..page import PaperReport, Section, picture_html
from ..papers import has_pawelczyk_rows
from ..picture import Picture
from ..table import to_html
from .ablations import TITLE, ablation_table, ablations
from .by_forget_size import found_pictures
from .curves import objectives_picture, search_picture
from .distributions import distribution_pictures
from .printed_tables import LEGEND, printed_table
from .sensitivity import rho_pictures, step_picture
from .tables import PaperTable, tables
from .times import time_pictures


def potion_report(rows: Sequence[Row], models: Path, samples: int) -> PaperReport:
    """All of it; of a sweep with rows of Pawelczyk et al. only what there are rows for.

    Such a sweep's models are not measured, unless a preset of Potion's trained some of them.

    Args:
        rows: of the sweep.
        models: folder of the trained models.
        samples: training images that one is measured on, 0: none.
    """
    both = has_pawelczyk_rows(rows)
    pictures = [search_picture(rows), objectives_picture(rows), *rho_pictures(rows), *time_pictures(rows)]
    if not both or len({row.share for row in rows}) > 1:
        pictures += found_pictures(rows)
    pictures.append(step_picture(rows))
    if not both or any((row.preset or "").startswith("potion/") for row in rows):
        pictures += distribution_pictures(models, samples)
    pictures, numbers, compared = in_order(pictures), tables(rows), ablations(rows)
    if both:
        numbers = _with_rows(numbers)
        compared = [ablation for ablation in compared if ablation.pairs]
        pictures = [picture for picture in pictures if picture.figure is not None]
    printed = [printed_table(table) for table in numbers]
    last = [ablation_table(compared)] if compared else []
    paper = "Potion: " if both else ""
    html = [f"<p>{escape(LEGEND)}</p>", *map(to_html, printed)] if printed else []
    sections = [
        Section("tables", f"{paper}Tables", html),
        Section("ablations", TITLE, [to_html(table, heading=False) for table in last]),
        Section("figures", f"{paper}Figures", [picture_html(picture) for picture in pictures]),
    ]
    return PaperReport([*printed, *last], pictures, sections)


def _with_rows(paper_tables: Sequence[PaperTable]) -> list[PaperTable]:
    """Those with rows, each set of rows once: a later table of the same is the narrower one, but for that by step."""
    kept: dict[frozenset[int], PaperTable] = {}
    for table in paper_tables:
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
