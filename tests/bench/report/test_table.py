"""What a table's writers make of texts with special characters, of parts, and of a table that is not made."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from helpers.sweep_rows import row, write
from potion_fast.bench.report.results_csv import write_csv
from potion_fast.bench.report.table import PAPER, Column, Table, TableLine, to_csv, to_html, to_markdown
from potion_fast.bench.sweep.rows import read_rows

LINES = (
    TableLine("GD, some", ["GD", "1 < 2", "3"], "some | of S_m", ["first", "second"], remark=" (2 rows)"),
    TableLine("EU, some", ["EU", "no rows", ""], "some | of S_m", missing=1),
    TableLine("EU, all", ["EU", "4", ""], "all"),
)
TABLE = Table(
    "mine",
    "Mine & others",
    [Column("method", "text"), Column("healed"), PAPER],
    LINES,
    parts="found",
    notes=["a < b"],
    legend="legend",
    records=[{"method": "GD", "mean": 0.1}, {"method": "EU", "mean": None}],
)


def test_markdown_has_the_sections_as_a_column_and_the_first_command_of_each_line() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "## Mine & others",
        "",
        "| found | method | healed | paper |",
        "|---|---|---|---|",
        "| some \\| of S_m | GD | 1 < 2 | 3 |",
        "| some \\| of S_m | EU | no rows |  |",
        "| all | EU | 4 |  |",
        "",
        "- legend",
        "- a < b",
        "",
        "Commands (the first of each line's; the CSV has all):",
        "",
        "- GD, some: `first` and 1 more",
    ]


def test_html_escapes_texts_and_has_the_sections_as_headings_and_why_a_value_is_missing() -> None:
    text = to_html(TABLE)
    assert text.startswith('<h3 id="mine">Mine &amp; others</h3>')
    assert text.count('<tr class="part">') == 2 and '<th colspan="3">some | of S_m</th>' in text
    assert "<td>1 &lt; 2</td>" in text and '<td class="paper">3</td>' in text
    assert '<td class="missing">no rows</td>' in text
    assert "<p>GD, some (2 rows)</p><pre>first\nsecond</pre>" in text
    assert "legend" not in text and "<h3" not in to_html(TABLE, heading=False)


def test_a_table_that_is_not_made_says_why() -> None:
    assert to_html(Table("mine", "Mine", missing="a < b")).endswith('<p class="none">Not made: a &lt; b.</p>')


def test_csv_has_every_digit_and_nothing_for_what_is_not_known() -> None:
    assert list(csv.DictReader(io.StringIO(to_csv(TABLE)))) == [
        {"method": "GD", "mean": "0.1"},
        {"method": "EU", "mean": ""},
    ]


def test_results_have_each_score_in_a_column_of_its_own_name(tmp_path: Path) -> None:
    contents = [row(), row(attack="gaussian", attack_score=7.5), row(attack="random-swap", attack_score=0.5)]
    write_csv(tmp_path / "results.csv", read_rows(write(tmp_path, contents) / "results"))
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        lines = {line["attack"]: line for line in csv.DictReader(file)}
    assert (lines["badnet"]["attack_success_rate"], lines["badnet"]["gus"]) == ("0.05", "")
    assert (lines["gaussian"]["attack_success_rate"], lines["gaussian"]["gus"]) == ("", "7.5")
    assert (lines["random-swap"]["memorised_rate"], lines["random-swap"]["before_memorised_rate"]) == ("0.5", "0.98")
