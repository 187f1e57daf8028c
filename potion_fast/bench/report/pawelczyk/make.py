"""The part of a report on Pawelczyk et al.: tables, figures and the matrix, and their sections of the page."""

from __future__ import annotations

from collections.abc import Sequence

from ...sweep.rows import Row
from ..page import PaperReport, Section, picture_html
from ..papers import has_pawelczyk_rows
from ..table import to_html
from .bars import bar_pictures
from .by_budget import along_pictures
from .heatmap import heatmap
from .matrix import matrices, matrix_table
from .noise import noise_pictures
from .score_tables import score_tables
from .table2 import tables2

LEGEND = (
    "Pawelczyk et al.: Machine Unlearning Fails to Remove Data Poisoning Attacks. Mean ± standard deviation over the "
    "seeds; all of S_m is unlearnt where the sweep has such rows, else the largest share of it; searches at ρ = 0.2, "
    "step 1.1. Its figures 4 and 5 are made by a command of their own."
)


def pawelczyk_report(rows: Sequence[Row]) -> PaperReport:
    """All of it, in the paper's order, the matrix first, which the paper does not have; nothing without its rows."""
    if not has_pawelczyk_rows(rows):
        return PaperReport()
    all_matrices = matrices(rows)
    tables = [*map(matrix_table, all_matrices), *score_tables(rows), *tables2(rows)]
    pictures = [*map(heatmap, all_matrices), *bar_pictures(rows), *noise_pictures(rows), *along_pictures(rows)]
    sections = [
        Section("pawelczyk-tables", "Pawelczyk et al.: tables", [f"<p>{LEGEND}</p>", *map(to_html, tables)]),
        Section("pawelczyk-figures", "Pawelczyk et al.: figures", [picture_html(picture) for picture in pictures]),
    ]
    return PaperReport(tables, pictures, sections)
