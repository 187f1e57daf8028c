"""The paper's tables 1 to 9, and the ablations of its section 5.2, from the rows of a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...runs.stages import LEARNT
from ...sweep.rows import Row
from ..averages import Average, average, common
from ..methods import (
    METHODS,
    PAPERS,
    Variant,
    attack_label,
    data_label,
    file_name,
    plain,
    setting_label,
    variant_label,
    variants,
)
from ..papers import RHO, S_STEP, perturbed
from .paper_values import Printed, of_paper, printed
from .scope import CIFAR, Chosen, Scope, choose

FOUND, ONE_SHOT, ALL_FOUND = "found", "one-shot", "all found"  # parts of the tables
PARTS: dict[str, Callable[[Row], bool]] = {
    FOUND: lambda row: not row.one_shot,
    ONE_SHOT: lambda row: row.one_shot,
    ALL_FOUND: lambda row: row.found == row.poisoned,
}
MEASURES: dict[str, tuple[str, str, float, Callable[[Row], float | None]]] = {  # -> (in print, unit, factor, of a row)
    "poison_healed": ("poison healed", "%", 1, lambda row: row.poison_healed),
    "model_damage": ("model damage", "points", 1, lambda row: row.model_damage),
    "attacked_accuracy": ("attacked images right", "%", 100, Row.attacked_accuracy),
    "attack_score": ("attack succeeds", "%", 100, Row.attack_score),
    "clean_accuracy": ("clean images right", "%", 100, Row.clean_accuracy),
}
STEPS = (1.01, 1.1, 2.0)


@dataclass(frozen=True)
class Layout:
    """A table of the paper: what it is made from, its parts, and whether it goes over step sizes."""

    scope: Scope
    parts: tuple[str, ...] = (FOUND, ONE_SHOT)
    s_steps: tuple[float, ...] = (S_STEP,)


LAYOUTS = {
    1: Layout(Scope("badnet", CIFAR, "potion/table1")),
    2: Layout(Scope("badnet", ("imagenette",), "potion/table2")),
    3: Layout(Scope("sine-wave", ("imagenette",), "potion/table3")),
    4: Layout(Scope("moving-trigger", ("imagenette",), "potion/table4"), (FOUND,)),
    5: Layout(Scope("badnet", ("imagenet",), "potion/table5")),
    6: Layout(Scope("sine-wave", ("imagenet",), "potion/table6")),
    7: Layout(Scope("moving-trigger", ("imagenet",), "potion/table7"), (FOUND,)),
    8: Layout(Scope("badnet", CIFAR, "potion/table8"), s_steps=STEPS),
    9: Layout(Scope("badnet", CIFAR, "potion/table9"), (ALL_FOUND,)),
}


@dataclass(frozen=True)
class Line:
    """A line of a table: one method's averages over the rows of one part.

    section   the part, and the setting where there are several
    s_step    in tables that go over step sizes
    averages  by measure, in the units of MEASURES
    printed   the paper's value by measure
    rows      what was averaged; missing: why there is nothing
    """

    section: str
    method: str
    averages: dict[str, Average | None]
    printed: dict[str, Printed | None] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    s_step: float | None = None
    missing: str = ""

    @property
    def commands(self) -> list[str]:
        return list(dict.fromkeys(row.command for row in self.rows if row.command))


@dataclass(frozen=True)
class Table:
    """name is its file's; notes are sentences that stand below it."""

    name: str
    title: str
    lines: list[Line]
    notes: list[str]
    over_steps: bool = False


def tables(rows: Sequence[Row]) -> list[Table]:
    """Tables 1 to 9, then one for every attack and data that no table of the paper has, but for perturbations."""
    chosen = {number: choose(rows, layout.scope) for number, layout in LAYOUTS.items()}
    made = [_paper_table(number, LAYOUTS[number], of_one) for number, of_one in chosen.items()]
    used = {id(row) for of_one in chosen.values() for row in of_one.rows}
    rest = [row for row in rows if id(row) not in used and not perturbed(row)]
    for attack, data in dict.fromkeys((row.attack_name, row.data) for row in rest):
        mine = [row for row in rest if (row.attack_name, row.data) == (attack, data)]
        lines = _sections(mine, (FOUND, ONE_SHOT), (S_STEP,), "")
        title = f"{attack_label(attack)} on {data_label(data)}, which the paper has no table of"
        made.append(Table(file_name(f"{attack}-{data}"), title, lines, _notes(mine)))
    return made


def _paper_table(number: int, layout: Layout, chosen: Chosen) -> Table:
    where = f"table {number}"
    lines = _sections(chosen.rows, layout.parts, layout.s_steps, where, chosen.missing)
    title = f"Table {number}: {layout.scope}"
    if number == 8:
        title += ", by step size"
    if number == 9:
        title += ", all of S_m found"
    notes = _notes(chosen.rows)
    if chosen.stand_in:
        title += f" (here: {chosen.stand_in})"
        notes.insert(0, f"The sweep is on {chosen.stand_in}: the paper's values are of other data and models.")
    lacking = [data for data in layout.scope.data if data not in {row.data for row in chosen.rows}]
    if chosen.rows and lacking and not chosen.stand_in and len(layout.scope.data) > 1:
        names = " and ".join(map(data_label, lacking))
        notes.insert(0, f"The paper's values average {names} in, which the sweep has no row of.")
    return Table(f"table{number}", title, lines, notes, over_steps=len(layout.s_steps) > 1)


def _sections(
    rows: Sequence[Row], parts: Sequence[str], s_steps: Sequence[float], where: str, missing: str = ""
) -> list[Line]:
    """Every part over all settings beside the paper's values, then, where there are several, over each of them."""
    settings = sorted({row.setting for row in rows}, key=str)
    lines: list[Line] = []
    for part in parts:
        mine = [row for row in rows if PARTS[part](row)]
        lines += _lines(mine, part, s_steps, where, f"{_part_label(part, mine)}", missing)
        if len(settings) > 1:
            for setting in settings:
                of_one = [row for row in mine if row.setting == setting]
                lines += _lines(of_one, part, s_steps, "", f"{_part_label(part, of_one)}; {setting_label(setting)}", "")
    return lines


def _lines(
    rows: Sequence[Row], part: str, s_steps: Sequence[float], where: str, section: str, missing: str
) -> list[Line]:
    """A line per variant and step size; the paper's methods have one even without a row."""
    by_variant = variants(rows)
    wanted: list[Variant] = list(by_variant)
    if where:
        papers = {each.method for each in printed() if (each.where, each.part) == (where, part)}
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
            averages = {name: scaled(average(chosen, read), factor) for name, (_, _, factor, read) in MEASURES.items()}
            lines.append(Line(section, variant_label(key), averages, paper, chosen, step, why))
    return lines


def scaled(one: Average | None, factor: float) -> Average | None:
    """The same in a unit that is so many times smaller."""
    if one is None:
        return None
    spreads = [None if spread is None else factor * spread for spread in (one.over_scenarios, one.over_seeds)]
    return Average(factor * one.mean, spreads[0], spreads[1], one.scenarios, one.seeds, one.count)


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
        mine = [row for row in rows if row.setting == setting]
        sizes = ", ".join(map(str, sorted({row.poisoned for row in mine})))
        shares = sorted({round(100 * row.share, 1) for row in mine if not row.one_shot})
        percent = ", ".join(f"{share:g}" for share in shares)
        founds = [*(["1 sample"] if any(row.one_shot for row in mine) else []), *([f"{percent} %"] if percent else [])]
        seeds = ", ".join(map(str, sorted({row.seed for row in mine})))
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


@dataclass(frozen=True)
class Ablation:
    """Method `ours` against `other`: relative gain in poison healed, and its damage as a share of the other's, in %.

    None where a method has no rows, or nothing to divide by.
    """

    question: str
    ours: str
    other: str
    healed_gain: float | None
    damage_share: float | None
    pairs: int


ABLATIONS = (
    ("PTN search instead of a grid of settings, both on SSD's importances", "ptn-ssd", "ssd-goel"),
    ("XLF instead of LF, both with PTN search", "ptn-xlf", "ptn-lf"),
    ("PTN-LF instead of the grid on SSD", "ptn-lf", "ssd-goel"),
    ("both together: PTN-XLF instead of the grid on SSD", "ptn-xlf", "ssd-goel"),
)


def ablations(rows: Sequence[Row]) -> list[Ablation]:
    """Over table 1's rows with more than one sample found, at the scenarios and seeds that both methods have."""
    chosen = [row for row in plain(choose(rows, LAYOUTS[1].scope).rows) if row.at(RHO, S_STEP) and not row.one_shot]
    made = []
    for question, ours, other in ABLATIONS:
        mine, theirs = common(*([row for row in chosen if row.method == name] for name in (ours, other)))
        healed = [average(each, "poison_healed") for each in (mine, theirs)]
        damage = [average(each, "model_damage") for each in (mine, theirs)]
        made.append(Ablation(question, ours, other, _gain(*healed), _share(*damage), len(mine)))
    return made


def printed_ablation(ours: str, other: str) -> tuple[float | None, float | None]:
    """What the paper's text prints."""
    found = {each.measure: each.mean for each in printed() if each.method == f"{ours}/{other}"}
    return found.get("healed_gain"), found.get("damage_share")


def recomputed(ours: str, other: str) -> tuple[float, float]:
    """The same from the values of the paper's table 1."""
    healed, damage = ([_of_table_1(name, measure) for name in (ours, other)] for measure in list(MEASURES)[:2])
    return 100 * (healed[0] / healed[1] - 1), 100 * damage[0] / damage[1]


def _of_table_1(method: str, measure: str) -> float:
    value = of_paper("table 1", FOUND, method, measure)
    assert value is not None  # paper_values.csv is this package's own
    return value.mean


def _gain(mine: Average | None, theirs: Average | None) -> float | None:
    return None if mine is None or theirs is None or theirs.mean == 0 else 100 * (mine.mean / theirs.mean - 1)


def _share(mine: Average | None, theirs: Average | None) -> float | None:
    return None if mine is None or theirs is None or theirs.mean == 0 else 100 * mine.mean / theirs.mean
