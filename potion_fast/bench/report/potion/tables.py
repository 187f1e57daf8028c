"""Potion's tables 1 to 9 in numbers, from the rows of a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...attacks import LEARNT
from ...sweep.rows import Row
from ..averages import Average, average
from ..methods import (
    METHODS,
    PAPERS,
    Variant,
    attack_label,
    data_label,
    file_name,
    setting_label,
    variant_label,
    variants,
)
from ..papers import RHO, S_STEP, perturbed
from .paper_values import PotionValue, of_paper, printed
from .scope import CIFAR, Chosen, Scope, choose

FOUND, ONE_SHOT, ALL_FOUND = "found", "one-shot", "all found"  # parts of the tables
PARTS: dict[str, Callable[[Row], bool]] = {
    FOUND: lambda row: not row.one_shot,
    ONE_SHOT: lambda row: row.one_shot,
    ALL_FOUND: lambda row: row.found == row.poisoned,
}
STEPS = (1.01, 1.1, 2.0)


@dataclass(frozen=True)
class Measure:
    """What a table has a column of.

    Attributes:
        title, unit: in print.
        factor: that a row's value is multiplied by.
        read: a row's value; None where it has none.
    """

    title: str
    unit: str
    factor: float
    read: Callable[[Row], float | None]


MEASURES = {
    "poison_healed": Measure("poison healed", "%", 1, lambda row: row.poison_healed),
    "model_damage": Measure("model damage", "points", 1, lambda row: row.model_damage),
    "attacked_accuracy": Measure("attacked images right", "%", 100, Row.attacked_accuracy),
    "attack_score": Measure("attack succeeds", "%", 100, Row.attack_score),
    "clean_accuracy": Measure("clean images right", "%", 100, Row.clean_accuracy),
}


@dataclass(frozen=True)
class PaperTableSpec:
    """A table of the paper.

    Attributes:
        scope: the rows that it is made from.
        parts: what of them its sections hold, see `PARTS`.
        s_steps: step sizes, where it goes over several.
    """

    scope: Scope
    parts: tuple[str, ...] = (FOUND, ONE_SHOT)
    s_steps: tuple[float, ...] = (S_STEP,)


TABLES = {
    1: PaperTableSpec(Scope("badnet", CIFAR, "potion/table1")),
    2: PaperTableSpec(Scope("badnet", ("imagenette",), "potion/table2")),
    3: PaperTableSpec(Scope("sine-wave", ("imagenette",), "potion/table3")),
    4: PaperTableSpec(Scope("moving-trigger", ("imagenette",), "potion/table4"), (FOUND,)),
    5: PaperTableSpec(Scope("badnet", ("imagenet",), "potion/table5")),
    6: PaperTableSpec(Scope("sine-wave", ("imagenet",), "potion/table6")),
    7: PaperTableSpec(Scope("moving-trigger", ("imagenet",), "potion/table7"), (FOUND,)),
    8: PaperTableSpec(Scope("badnet", CIFAR, "potion/table8"), s_steps=STEPS),
    9: PaperTableSpec(Scope("badnet", CIFAR, "potion/table9"), (ALL_FOUND,)),
}


@dataclass(frozen=True)
class PaperLine:
    """A line of a table: one method's averages over the rows of one part.

    Attributes:
        section: the part, and the setting where there are several.
        method: in print.
        averages: by measure, in the units of `MEASURES`.
        printed: the paper's value by measure.
        rows: what was averaged.
        s_step: in tables that go over step sizes.
        missing: why there is nothing.
    """

    section: str
    method: str
    averages: dict[str, Average | None]
    printed: dict[str, PotionValue | None] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    s_step: float | None = None
    missing: str = ""

    @property
    def commands(self) -> list[str]:
        """Of all rows, each once."""
        return list(dict.fromkeys(row.command for row in self.rows if row.command))


@dataclass(frozen=True)
class PaperTable:
    """A table in numbers.

    Attributes:
        name: of its files.
        title: its heading.
        lines: from top to bottom.
        notes: sentences that stand below it.
        over_steps: whether it goes over step sizes.
    """

    name: str
    title: str
    lines: list[PaperLine]
    notes: list[str]
    over_steps: bool = False


def tables(rows: Sequence[Row]) -> list[PaperTable]:
    """Tables 1 to 9, then one for every attack and data that no table of the paper has, but for perturbations.

    Of tables that differ in the data alone a sweep on other data, which stands in for all of them, has the first.
    """
    chosen = {number: choose(rows, spec.scope) for number, spec in TABLES.items()}
    shown: set[tuple[object, ...]] = set()
    for number, spec in TABLES.items():
        kind = spec.scope.attack, spec.parts, spec.s_steps
        if chosen[number].stand_in and kind in shown:
            del chosen[number]
        shown.add(kind)
    paper_tables = [_paper_table(number, TABLES[number], of_one) for number, of_one in chosen.items()]
    used = {id(row) for of_one in chosen.values() for row in of_one.rows}
    rest = [row for row in rows if id(row) not in used and not perturbed(row)]
    for attack, data in dict.fromkeys((row.attack_name, row.data) for row in rest):
        selected = [row for row in rest if (row.attack_name, row.data) == (attack, data)]
        lines = _sections(selected, (FOUND, ONE_SHOT), (S_STEP,), "")
        title = f"{attack_label(attack)} on {data_label(data)}, which the paper has no table of"
        paper_tables.append(PaperTable(file_name(f"{attack}-{data}"), title, lines, _notes(selected)))
    return paper_tables


def _paper_table(number: int, spec: PaperTableSpec, chosen: Chosen) -> PaperTable:
    where = "" if chosen.stand_in else f"table {number}"  # whose values of other data are no comparison
    lines = _sections(chosen.rows, spec.parts, spec.s_steps, where, chosen.missing)
    title = f"Table {number}: {spec.scope}"
    if number == 8:
        title += ", by step size"
    if number == 9:
        title += ", all of S_m found"
    notes = _notes(chosen.rows)
    if chosen.stand_in:
        title += f" (here: {chosen.stand_in})"
        notes.insert(0, f"The sweep is on {chosen.stand_in}, of which the paper has no values.")
    lacking = [data for data in spec.scope.data if data not in {row.data for row in chosen.rows}]
    if chosen.rows and lacking and not chosen.stand_in and len(spec.scope.data) > 1:
        names = " and ".join(map(data_label, lacking))
        notes.insert(0, f"The paper's values average {names} in, which the sweep has no row of.")
    return PaperTable(f"table{number}", title, lines, notes, over_steps=len(spec.s_steps) > 1)


def _sections(
    rows: Sequence[Row], parts: Sequence[str], s_steps: Sequence[float], where: str, missing: str = ""
) -> list[PaperLine]:
    """Every part over all settings with the paper's values, then, where there are several, over each of them."""
    settings = sorted({row.setting for row in rows}, key=str)
    lines: list[PaperLine] = []
    for part in parts:
        selected = [row for row in rows if PARTS[part](row)]
        lines += _lines(selected, part, s_steps, where, f"{_part_label(part, selected)}", missing)
        if len(settings) > 1:
            for setting in settings:
                of_one = [row for row in selected if row.setting == setting]
                lines += _lines(of_one, part, s_steps, "", f"{_part_label(part, of_one)}; {setting_label(setting)}", "")
    return lines


def _lines(
    rows: Sequence[Row], part: str, s_steps: Sequence[float], where: str, section: str, missing: str
) -> list[PaperLine]:
    """A line per variant and step size; the paper's methods have one even without a row."""
    by_variant = variants(rows)
    wanted: list[Variant] = list(by_variant)
    if where:
        papers = {value.method for value in printed() if (value.where, value.part) == (where, part)}
        wanted += [(name, ()) for name in PAPERS if name in papers and name not in {key[0] for key in wanted}]
    order = list(METHODS)
    wanted.sort(key=lambda key: order.index(key[0]) if key[0] in order else len(order))
    lines = []
    for s_step in s_steps:
        for key in wanted:
            of_one = by_variant.get(key, [])
            stepped = key[0].startswith("ptn-") if not of_one else any(row.s_step is not None for row in of_one)
            if not stepped and s_step != s_steps[-1]:
                continue  # a method without steps has one line, the last
            chosen = [row for row in of_one if row.at(RHO, s_step)]
            why = "" if chosen else missing or ("no rows" + (f" at ρ = {RHO}, step {s_step:g}" if of_one else ""))
            step = s_step if stepped and len(s_steps) > 1 else None
            paper = {
                name: of_paper(where, part, key[0], name, step) for name in ("poison_healed", "model_damage") if where
            }
            averages = {
                name: scaled(average(chosen, measure.read), measure.factor) for name, measure in MEASURES.items()
            }
            lines.append(PaperLine(section, variant_label(key), averages, paper, chosen, step, why))
    return lines


def scaled(unscaled: Average | None, factor: float) -> Average | None:
    """The same in a unit that is so many times smaller."""
    if unscaled is None:
        return None
    spreads = [None if spread is None else factor * spread for spread in (unscaled.over_scenarios, unscaled.over_seeds)]
    return Average(factor * unscaled.mean, spreads[0], spreads[1], unscaled.scenarios, unscaled.seeds, unscaled.count)


def _part_label(part: str, rows: Sequence[Row]) -> str:
    if part == ONE_SHOT:
        return "one-shot: 1 found"
    if part == ALL_FOUND:
        return "all of S_m found"
    shares = [round(100 * row.share, 1) for row in rows] or [10, 100]
    low, high = min(shares), max(shares)
    return f"{low:g} to {high:g} % of S_m found" if low < high else f"{low:g} % of S_m found"


def _notes(rows: Sequence[Row]) -> list[str]:
    """What was averaged over, and what poison healed is a share of."""
    if not rows:
        return []
    notes = []
    for setting in dict.fromkeys(row.setting for row in rows):
        selected = [row for row in rows if row.setting == setting]
        sizes = ", ".join(map(str, sorted({row.poisoned for row in selected})))
        shares = sorted({round(100 * row.share, 1) for row in selected if not row.one_shot})
        percent = ", ".join(f"{share:g}" for share in shares)
        founds = [
            *(["1 sample"] if any(row.one_shot for row in selected) else []),
            *([f"{percent} %"] if percent else []),
        ]
        seeds = ", ".join(map(str, sorted({row.seed for row in selected})))
        notes.append(f"{setting_label(setting)}: |S_m| {sizes}; found {' and '.join(founds)}; seeds {seeds}.")
    known = {
        (row.setting, row.poisoned, row.seed): 100 * accuracy
        for row in rows
        if (accuracy := row.attacked_accuracy("reference")) is not None
    }
    if values := list(known.values()):
        low, high = min(values), max(values)
        between = f"{low:.2f} %" if math.isclose(low, high) else f"{low:.2f} to {high:.2f} %"
        models = "a model" if len(values) == 1 else f"{len(values)} models"
        notes.append(
            f"Poison healed is the share of the accuracy on attacked images with their true labels that {models} "
            f"trained without any of S_m had: {between}. The paper does not say which run it divides by."
        )
    elif any(row.poison_healed is None for row in rows):
        notes.append("There is no reference model for these rows, so poison healed is not given.")
    before = [row.attack_score("before") for row in rows]
    unlearnt = [row for row, reached in zip(rows, before, strict=True) if (reached or 0) < LEARNT]
    if unlearnt and any(reached is not None for reached in before):
        notes.append(
            f"In {len(unlearnt)} of {len(rows)} rows the attack succeeded on fewer than {LEARNT:.0%} before: there was "
            "little to heal, and poison healed says little."
        )
    if shared := sorted({row.retain_from for row in rows if row.retain_from and row.retain_from != "pass"}):
        notes.append(f"Importances of the retain set, of some rows or all: {'; '.join(shared)}.")
    return notes
