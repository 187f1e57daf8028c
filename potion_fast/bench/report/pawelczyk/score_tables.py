"""Tables of scores: what is left of Gaussian and targeted poisons, before and after every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...sweep.rows import UNTOUCHED, Row, When
from ..averages import average
from ..table import Column, Table, TableLine
from .scope import Group, by_budget, groups, size_label
from .values import Measure, clean_percent, format_average, labelled, score, seeds_note, settings_note, word_note


@dataclass(frozen=True)
class ScoreColumn:
    """A column of scores.

    Attributes:
        name: of the metric.
        title: in print, with its unit.
        scale: that it is multiplied by.
    """

    name: str
    title: str
    scale: float = 1

    def of(self, when: When) -> Measure:
        """Reads it from a row."""
        return score(self.name, when, self.scale)


@dataclass(frozen=True)
class ScoreTableSpec:
    """The table of a kind of poison.

    Attributes:
        name: of its files.
        title: its heading.
        scores: its columns.
        note: what these are.
    """

    name: str
    title: str
    scores: tuple[ScoreColumn, ...]
    note: str


TABLES = {
    "gaussian": ScoreTableSpec(
        "pawelczyk-gaussian",
        "Gaussian poison: what is left in the model",
        (
            ScoreColumn("gus", "GUS"),
            ScoreColumn("gus_z", "z"),
            ScoreColumn("tpr", "TPR at FPR 0.01, %", 100),
            ScoreColumn("tpr_fresh", "TPR, fresh noises, %", 100),
            ScoreColumn("base_accuracy", "base {sample}s right, %", 100),
        ),
        "GUS: mean of I_z over the poisoned samples, of N(0, 1) for a model that knows nothing of the noise; z: GUS in "
        "units of its standard error 1 / √P. TPR: two-sided, of |I_z| above 2.576, and above the threshold that fresh "
        "noises give; 1 % is ideal.",
    ),
    "targeted": ScoreTableSpec(
        "pawelczyk-targeted",
        "Targeted poison: what is left in the model",
        (
            ScoreColumn("target_success", "targets given the intended label, %", 100),
            ScoreColumn("target_accuracy", "targets right, %", 100),
        ),
        "With one target a run counts 0 or 100 %.",
    ),
}


def score_tables(rows: Sequence[Row]) -> list[Table]:
    """A table per kind and per attack, data and model."""
    tables = []
    for kind, spec in TABLES.items():
        missing = f"the sweep has no row of a {'Gaussian' if kind == 'gaussian' else kind} poison"
        groups_of_kind = groups(rows, kind)
        tables += [_table(group, spec) for group in groups_of_kind] or [Table(spec.name, spec.title, missing=missing)]
    return tables


def _table(group: Group, spec: ScoreTableSpec) -> Table:
    lines: list[TableLine] = []
    records: list[dict[str, object]] = []
    for size in group.sizes:
        rows = group.of_size(size)
        untouched = [row for row in rows if row.method == UNTOUCHED] or rows
        parts: list[tuple[str, float | None, list[Row], When]] = [
            ("no unlearning", None, untouched, "before"),
            ("trained without the poison", None, untouched, "reference"),
        ]
        for name, key, of_method in labelled(rows):
            if key[0] == UNTOUCHED:
                continue
            for budget, at_budget in by_budget(of_method).items():
                parts.append((name, budget, at_budget, "after"))
        for name, budget, of_method, when in parts:
            line, record = _line(spec, size_label(rows), name, budget, of_method, when)
            lines.append(line)
            records.append(record)
    scores = (score.title.format(sample=group.sample) for score in spec.scores)
    columns = [Column("method", "text"), Column("budget", "text"), *map(Column, scores)]
    columns += [Column(f"test {group.sample}s right, %"), Column("poison removed, %")]
    notes = [
        f"{group.where}. {seeds_note(group.rows)}. {spec.note}",
        word_note(group.rows),
        settings_note(group.rows),
    ]
    title = f"{spec.title}; {group.where}"
    notes = [note for note in notes if note]
    return Table(group.named(spec.name), title, columns, lines, "poisoned", notes, records=records)


def _line(
    spec: ScoreTableSpec, section: str, name: str, budget: float | None, rows: Sequence[Row], when: When
) -> tuple[TableLine, dict[str, object]]:
    """Of the models after unlearning, or of those before it, or of the reference."""
    measures = {score.name: average(rows, score.of(when)) for score in spec.scores}
    measures["test_accuracy"] = average(rows, clean_percent(when))
    removed = average(rows, "poison_removed") if when == "after" else None
    commands = [] if when != "after" else list(dict.fromkeys(row.command for row in rows if row.command))
    share = "" if budget is None else f"{100 * budget:g} %"
    texts = [
        name,
        share,
        *(format_average(averaged) for averaged in measures.values()),
        format_average(removed, 1) if when == "after" else "",
    ]
    record: dict[str, object] = {"table": spec.name, "poisoned": section, "method": name}
    record["budget"] = "" if budget is None else budget
    for key, averaged in {**measures, "poison_removed": removed}.items():
        record[key] = averaged.mean if averaged else ""
        record[f"{key}_over_seeds"] = averaged.over_seeds if averaged and averaged.over_seeds is not None else ""
    record |= {"rows": len(rows), "commands": "\n".join(commands)}
    return TableLine(f"{name}, {section}", texts, section, commands), record
