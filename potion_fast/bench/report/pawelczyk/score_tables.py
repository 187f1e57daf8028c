"""What is left in the model of Gaussian and targeted poisons: every score before and after every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...sweep.rows import UNTOUCHED, Row, When
from ..averages import average
from .scope import Group, by_budget, groups, size_label
from .sheet import Entry, Sheet
from .values import Measure, clean_percent, labelled, score, seeds_note, settings_note, told, word_note


@dataclass(frozen=True)
class Score:
    """A column: a metric of the poison's evaluation, by its name, in print and with its unit."""

    name: str
    title: str
    scale: float = 1

    def of(self, when: When) -> Measure:
        return score(self.name, when, self.scale)


@dataclass(frozen=True)
class Layout:
    """What the table of a kind of poison holds; notes say what the scores are."""

    name: str
    title: str
    scores: tuple[Score, ...]
    note: str


LAYOUTS = {
    "gaussian": Layout(
        "exam-gaussian",
        "Gaussian poison: what is left in the model",
        (
            Score("gus", "GUS"),
            Score("gus_z", "z"),
            Score("tpr", "TPR at FPR 0.01, %", 100),
            Score("tpr_fresh", "TPR, fresh noises, %", 100),
            Score("base_accuracy", "base images right, %", 100),
        ),
        "GUS: mean of I_z over the poisoned samples, of N(0, 1) for a model that knows nothing of the noise; z: GUS in "
        "units of its standard error 1 / √P. TPR: two-sided, of |I_z| above 2.576, and above the threshold that fresh "
        "noises give; 1 % is ideal.",
    ),
    "targeted": Layout(
        "exam-targeted",
        "Targeted poison: what is left in the model",
        (
            Score("target_success", "targets given the intended label, %", 100),
            Score("target_accuracy", "targets right, %", 100),
        ),
        "With one target a run counts 0 or 100 %.",
    ),
}


def scored(rows: Sequence[Row]) -> list[Sheet]:
    """A table per kind and per attack, data and model."""
    made = []
    for kind, layout in LAYOUTS.items():
        missing = f"the sweep has no row of a {'Gaussian' if kind == 'gaussian' else kind} poison"
        found = groups(rows, kind)
        made += [_sheet(group, layout) for group in found] or [Sheet(layout.name, layout.title, missing=missing)]
    return made


def _sheet(group: Group, layout: Layout) -> Sheet:
    entries: list[Entry] = []
    records: list[dict[str, object]] = []
    for size in group.sizes:
        rows = group.of_size(size)
        untouched = [row for row in rows if row.method == UNTOUCHED] or rows
        lines: list[tuple[str, float | None, list[Row], When]] = [
            ("no unlearning", None, untouched, "before"),
            ("trained without the poison", None, untouched, "reference"),
        ]
        for name, key, some in labelled(rows):
            if key[0] == UNTOUCHED:
                continue
            for budget, mine in by_budget(some).items():
                lines.append((name, budget, mine, "after"))
        for name, budget, some, when in lines:
            entry, record = _line(layout, size_label(rows), name, budget, some, when)
            entries.append(entry)
            records.append(record)
    scores = (group.words(each.title) for each in layout.scores)
    header = ["method", "budget", *scores, group.words("test images right, %"), "poison removed, %"]
    notes = [
        f"{group.where}. {seeds_note(group.rows)}. {layout.note}",
        word_note(group.rows),
        settings_note(group.rows),
    ]
    title = f"{layout.title}; {group.where}"
    notes = [note for note in notes if note]
    return Sheet(group.named(layout.name), title, "poisoned", header, entries, notes, records, texts=2)


def _line(
    layout: Layout, section: str, name: str, budget: float | None, rows: Sequence[Row], when: When
) -> tuple[Entry, dict[str, object]]:
    """Of the models after unlearning, or of those before it, or of the reference."""
    measures = {each.name: average(rows, each.of(when)) for each in layout.scores}
    measures["test_accuracy"] = average(rows, clean_percent(when))
    removed = average(rows, "poison_removed") if when == "after" else None
    commands = [] if when != "after" else list(dict.fromkeys(row.command for row in rows if row.command))
    share = "" if budget is None else f"{100 * budget:g} %"
    texts = [name, share, *(told(one) for one in measures.values()), told(removed, 1) if when == "after" else ""]
    record: dict[str, object] = {"table": layout.name, "poisoned": section, "method": name}
    record["budget"] = "" if budget is None else budget
    for key, one in {**measures, "poison_removed": removed}.items():
        record[key] = one.mean if one else ""
        record[f"{key}_over_seeds"] = one.over_seeds if one and one.over_seeds is not None else ""
    record |= {"rows": len(rows), "commands": "\n".join(commands)}
    return Entry(section, texts, commands), record
