"""All tables and figures of the second exam, and their sections of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...sweep.rows import Row
from ..page import Section, picture_html
from ..style import Picture
from .bars import bar_pictures
from .by_budget import along_pictures
from .heatmap import heatmap
from .matrix import matrices, sheet
from .noise import noise_pictures
from .score_tables import scored
from .sheet import Sheet, html
from .table2 import tables2

LEGEND = (
    "Paper B: Machine Unlearning Fails to Remove Data Poisoning Attacks. Mean ± standard deviation over the seeds; "
    "all of S_m is unlearnt where the sweep has such rows, else the largest share of it; searches at ρ = 0.2, step "
    "1.1. Its figures 4 and 5 are made by a command of their own."
)


@dataclass(frozen=True)
class Exam:
    """What the second exam adds to a report."""

    sheets: Sequence[Sheet] = ()
    pictures: Sequence[Picture] = ()

    @property
    def missing(self) -> dict[str, str]:
        """Why a table or figure is not there, by name."""
        pictures = {one.name: one.missing for one in self.pictures if one.figure is None}
        return {one.name: one.missing for one in self.sheets if one.missing} | pictures


def exam(rows: Sequence[Row]) -> Exam:
    """In the paper's order; the matrix, which it does not have, comes first."""
    made = matrices(rows)
    sheets = [*(sheet(one) for one in made), *scored(rows), *tables2(rows)]
    pictures = [*(heatmap(one) for one in made), *bar_pictures(rows), *noise_pictures(rows), *along_pictures(rows)]
    return Exam(sheets, pictures)


def sections(made: Exam) -> list[Section]:
    """Of the page; none where there is no such exam."""
    if made == Exam():
        return []
    return [
        Section("exam-tables", "Second exam: tables", [f"<p>{LEGEND}</p>", *(html(one) for one in made.sheets)]),
        Section("exam-figures", "Second exam: figures", [picture_html(one) for one in made.pictures]),
    ]
