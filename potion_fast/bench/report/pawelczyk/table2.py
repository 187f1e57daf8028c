"""Table 2 of Pawelczyk et al.: test accuracy by budget, method and size of an indiscriminate poison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...sweep.rows import UNTOUCHED, Row
from ..averages import Average, average
from ..methods import label
from ..papers import PAWELCZYK_METHODS
from ..table import PAPER, Column, Table, TableLine, format_number
from .paper_values import of_paper, printed
from .scope import BUDGETS, Group, by_budget, groups, size_label, size_of_paper
from .values import clean_percent, format_average, labelled, seeds_note, settings_note

NAME, TITLE = "pawelczyk-table2", "Table 2: test accuracy by budget, indiscriminate poison"
NONE = "–"  # no row
WHOLE = "no budget"
NOTES = (
    "Columns: gradient steps as a share of the training's; the paper's 2 to 10 epochs of its 100.",
    "The paper writes NGP and does not say what it is: its value stands beside NGD and NegGrad+. Its table heads the "
    "second column of CFk 2.5 %, which is read as 2 %.",
)


@dataclass(frozen=True)
class BudgetCell:
    """A method at one budget.

    Attributes:
        rows: ours.
        ours: their mean, in percent.
        paper: the paper's value, in percent.
    """

    rows: Sequence[Row] = ()
    ours: Average | None = None
    paper: float | None = None

    @property
    def filled(self) -> bool:
        """Whether it holds anything."""
        return bool(self.rows) or self.paper is not None

    @property
    def commands(self) -> list[str]:
        """Of all rows, each once."""
        return list(dict.fromkeys(row.command for row in self.rows if row.command))


def tables2(rows: Sequence[Row]) -> list[Table]:
    """One per attack, data and model."""
    groups_of_kind = groups(rows, "indiscriminate")
    return [_table(group) for group in groups_of_kind] or [
        Table(NAME, TITLE, missing="the sweep has no row of an indiscriminate poison")
    ]


def _table(group: Group) -> Table:
    budgets = [None, *sorted({*BUDGETS, *(row.budget for row in group.rows if row.budget is not None)})]
    lines, records = [], []
    for size in group.sizes:
        rows = group.of_size(size)
        for name, cells in _lines(rows, budgets):
            commands = [command for cell in cells.values() for command in cell.commands]
            section = size_label(rows)
            lines.append(TableLine(f"{name}, {section}", _texts(name, cells), section, commands))
            records += [_record(section, name, budget, cell) for budget, cell in cells.items() if cell.filled]
    columns = [Column("method", "text")]
    for budget in budgets:
        columns += [Column(WHOLE if budget is None else f"{100 * budget:g} %"), PAPER]
    notes = [
        f"{group.where}. Clean test images right, in %. {seeds_note(group.rows)}. The paper: CIFAR-10, ResNet-18, "
        f"100 epochs, means over 8 runs. {NONE}: the sweep has no such row.",
        *NOTES,
        settings_note(group.rows),
    ]
    title = f"{TITLE}; {group.where}"
    notes = [note for note in notes if note]
    return Table(group.named(NAME), title, columns, lines, "poisoned", notes, records=records)


def _lines(rows: Sequence[Row], budgets: Sequence[float | None]) -> list[tuple[str, dict[float | None, BudgetCell]]]:
    """Of one poison size, by budget: the models without unlearning, then the methods.

    Where the size is one of the paper's, its methods are there in any case.
    """
    size = size_of_paper(rows[0])
    untouched = [row for row in rows if row.method == UNTOUCHED] or rows
    before = BudgetCell(untouched, average(untouched, clean_percent("before")), _paper(UNTOUCHED, size, None))
    clean = BudgetCell(untouched, average(untouched, clean_percent("reference")))
    ends = (("no unlearning", before), ("trained without the poison", clean))
    lines = [(name, {budget: BudgetCell() if budget else cell for budget in budgets}) for name, cell in ends]
    by_method = {(name, key[0]): by_budget(of_method) for name, key, of_method in labelled(rows)}
    methods = dict.fromkeys(value.method for value in printed() if size is not None)
    by_method |= {(label(name), name): {} for name in methods if name not in {method for _, method in by_method}}
    order = sorted(
        by_method,
        key=lambda key: PAWELCZYK_METHODS.index(key[1]) if key[1] in PAWELCZYK_METHODS else len(PAWELCZYK_METHODS),
    )
    for name, method in order:
        if method != UNTOUCHED:
            lines.append(
                (
                    name,
                    {
                        budget: _cell(by_method[name, method].get(budget, []), method, size, budget)
                        for budget in budgets
                    },
                )
            )
    return lines


def _cell(rows: Sequence[Row], method: str, size: float | None, budget: float | None) -> BudgetCell:
    return BudgetCell(rows, average(rows, clean_percent()), _paper(method, size, budget))


def _paper(method: str, size: float | None, budget: float | None) -> float | None:
    """Nothing for a size that the paper does not have."""
    value = None if size is None else of_paper(method, size, budget)
    return None if value is None else value.mean


def _texts(name: str, cells: Mapping[float | None, BudgetCell]) -> list[str]:
    texts = [name]
    for cell in cells.values():
        texts += [
            format_average(cell.ours) if cell.rows else NONE,
            "" if cell.paper is None else format_number(cell.paper),
        ]
    return texts


def _record(section: str, name: str, budget: float | None, cell: BudgetCell) -> dict[str, object]:
    ours = cell.ours
    return {
        "table": NAME,
        "poisoned": section,
        "method": name,
        "budget": "" if budget is None else budget,
        "test_accuracy": ours.mean if ours else "",
        "over_seeds": ours.over_seeds if ours and ours.over_seeds is not None else "",
        "seeds": ours.seeds if ours else "",
        "rows": ours.count if ours else "",
        "paper": "" if cell.paper is None else cell.paper,
        "commands": "\n".join(cell.commands),
    }
