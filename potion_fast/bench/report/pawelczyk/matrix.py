"""Every unlearner on every attack: poison removed, damage and compute, as one table and one heat map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ...attacks import KINDS, LEARNT, SEEN, Poison
from ...metrics.scores import EFFECT
from ...sweep.rows import UNTOUCHED, Row
from ..averages import Average, average
from ..methods import ATTACK_LABELS, attack_label, file_name, setting_label
from ..table import Column, Table, TableLine, format_number
from .scope import comparable, compute, largest
from .values import apart, format_average, seeds_note, settings_note

NAME, TITLE = "pawelczyk-matrix", "Every unlearner on every attack"
ORDER = ("trigger", "swap", "targeted", "indiscriminate", "gaussian", "")  # of kinds, from left to right
ABSENT, NOTHING, UNMEASURED = "no row", "the attack did nothing", "not measured"


@dataclass(frozen=True)
class MatrixCell:
    """One method on one attack.

    Attributes:
        rows: that it is made from.
        removed: percent of the attack's effect; None where no row has it.
        damage: points of clean accuracy; None where no row has it.
        compute: percent of the training's gradient steps; None where no row has it.
        missing: why `removed` is None.
        weak: in how many of the rows the attack had hardly taken before.
    """

    rows: Sequence[Row]
    removed: Average | None
    damage: Average | None
    compute: float | None
    missing: str = ""
    weak: int = 0

    @property
    def mark(self) -> str:
        """Behind the value where the attack had hardly taken before."""
        return "†" if self.weak and not self.missing else ""


@dataclass(frozen=True)
class Matrix:
    """Of one data and model: methods as lines, attacks as columns, a cell at (name of the method, attack)."""

    name: str
    where: str
    attacks: list[str]
    methods: list[str]
    cells: dict[tuple[str, str], MatrixCell]
    rows: list[Row]

    def compute_label(self, method: str) -> str:
        """In percent of the training's gradient steps, over all attacks."""
        known = [cell.compute for attack in self.attacks if (cell := self.cells[method, attack]).compute is not None]
        if not known:
            return "not known"
        low, high = (f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in (min(known), max(known)))
        return f"{low} %" if low == high else f"{low}–{high} %"


def matrices(rows: Sequence[Row]) -> list[Matrix]:
    """One per data and model, that with the most rows first; each method at the largest of its budgets."""
    by_setting: dict[tuple[object, ...], list[Row]] = {}
    for row in comparable(rows):
        if row.method != UNTOUCHED:
            by_setting.setdefault(row.setting, []).append(row)
    ordered = sorted(by_setting.values(), key=lambda members: (-len(members), str(members[0].setting)))
    return [_matrix(members, not place) for place, members in enumerate(ordered)]


def _matrix(rows: list[Row], first: bool) -> Matrix:
    kinds = {row.attack_name: row.kind if row.kind in ORDER else "" for row in rows}
    places = {attack: number for number, attack in enumerate(ATTACK_LABELS)}
    attacks = sorted(kinds, key=lambda attack: (ORDER.index(kinds[attack]), places.get(attack, len(places))))
    methods, cells, kept = [], {}, []
    for name, _, members in apart(rows):
        methods.append(name)
        for attack in attacks:
            selected = largest(row for row in members if row.attack_name == attack)
            cells[name, attack] = _cell(selected)
            kept += selected
    data, model, width = rows[0].setting
    name = NAME if first else file_name("-".join([NAME, data, model, *([str(width)] if width is not None else [])]))
    return Matrix(name, setting_label(rows[0].setting), attacks, methods, cells, kept)


def _cell(rows: Sequence[Row]) -> MatrixCell:
    removed, damage = average(rows, "poison_removed"), average(rows, "model_damage")
    spent = [value for row in rows if (value := compute(row)) is not None]
    missing = ""
    if removed is None:
        known = [effect(row) for row in rows]
        idle = known and all(value is not None and abs(value) < EFFECT for value in known)
        missing = NOTHING if idle else UNMEASURED if rows else ABSENT
    return MatrixCell(
        rows, removed, damage, fmean(spent) if spent else None, missing, sum(not took(row) for row in rows)
    )


def effect(row: Row) -> float | None:
    """What the attack changed, in the unit of the poison's second score; None where that is not known."""
    before, unseen = row.attack_score("before"), _kind_of(row).unseen_score
    reference = row.attack_score("reference") if unseen is None else unseen
    return None if before is None or reference is None else before - reference


def took(row: Row) -> bool:
    """Whether the attack was in the model before: else there was little to remove. Unknown counts as yes."""
    return _kind_of(row).took(lambda name: row.score(name, "before"), effect(row))


def _kind_of(row: Row) -> type[Poison]:
    return KINDS.get(row.kind or "", Poison)


def matrix_table(matrix: Matrix) -> Table:
    """The matrix as a table: of each attack what is removed and the damage, and the compute of each method."""
    columns = [Column("method", "text")]
    for attack in matrix.attacks:
        columns += [Column(f"{attack_label(attack)}: removed, %"), Column("damage, points")]
    columns.append(Column("compute, % of the training's gradient steps"))
    lines, records = [], []
    for method in matrix.methods:
        texts = [method]
        for attack in matrix.attacks:
            cell = matrix.cells[method, attack]
            texts.append(cell.missing or format_average(cell.removed, 1) + cell.mark)
            texts.append("" if cell.damage is None else format_average(cell.damage))
            records.append(_record(matrix.name, method, attack, cell))
        selected = [row for attack in matrix.attacks for row in matrix.cells[method, attack].rows]
        commands = list(dict.fromkeys(row.command for row in selected if row.command))
        texts.append(matrix.compute_label(method))
        lines.append(TableLine(f"{method}, {matrix.where}", texts, matrix.where, commands))
    title = f"{TITLE}, {matrix.where}"
    return Table(matrix.name, title, columns, lines, "setting", notes(matrix), records=records)


def notes(matrix: Matrix) -> list[str]:
    """What stands below the table."""
    rows = matrix.rows
    weak = sum(not took(row) for row in rows)
    marked = (
        f"†: in {weak} of {len(rows)} rows the attack had hardly taken: it succeeded on fewer than {LEARNT:.0%} "
        f"(triggers, swaps), missed its target, cost less than {100 * EFFECT:g} point, or left a GUS with z below "
        f"{SEEN}. "
    )
    text = (
        "Poison removed: the share of the attack's effect (attack success, wrong labels memorised, target success, "
        "test error, GUS) that is gone, 100 % where it is as in a model trained without the poison; below 0 it grew. "
        f"'{NOTHING}': that effect was less than {EFFECT}. {marked if weak else ''}Damage: clean accuracy after less "
        f"before. {seeds_note(rows)}; several sizes of S_m are averaged. Methods with a budget: the largest there is."
    )
    return [text, *([settings_note(rows)] if settings_note(rows) else [])]


def _record(name: str, method: str, attack: str, cell: MatrixCell) -> dict[str, object]:
    record: dict[str, object] = {"table": name, "method": method, "attack": attack}
    for key, averaged in (("poison_removed", cell.removed), ("model_damage", cell.damage)):
        record[key] = averaged.mean if averaged else ""
        record[f"{key}_over_seeds"] = averaged.over_seeds if averaged and averaged.over_seeds is not None else ""
    steps = sorted({row.gradient_steps for row in cell.rows if row.gradient_steps is not None})
    record["compute_percent"] = "" if cell.compute is None else cell.compute
    record["gradient_steps"] = " ".join(map(str, steps))
    record |= {"rows": len(cell.rows), "weak_rows": cell.weak, "missing": cell.missing}
    return {**record, "commands": "\n".join(dict.fromkeys(row.command for row in cell.rows if row.command))}


def in_cell(cell: MatrixCell) -> str:
    """The texts of a cell of the heat map."""
    if cell.missing:
        words = {ABSENT: "no row", NOTHING: "the attack\ndid nothing", UNMEASURED: "not\nmeasured"}
        return words[cell.missing]
    assert cell.removed is not None
    damage = (
        "" if cell.damage is None else f"\n{'+' if cell.damage.mean > 0 else ''}{format_number(cell.damage.mean, 1)}"
    )
    return f"{format_number(cell.removed.mean, 0)} %{cell.mark}{damage}"
