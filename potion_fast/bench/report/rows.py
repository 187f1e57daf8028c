"""The rows that a sweep leaves behind: read, checked, and written as one tidy table."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ...errors import FileError
from ...user.read_data import read_json
from ...utils.atomic_files import written_whole
from ..attacks import POISONS

REQUIRED = ("attack", "data", "model", "method", "seed", "poisoned", "found")
SWAPPED = {"manipulated_accuracy": "triggered_accuracy", "memorised_rate": "attack_success_rate"}
FRACTIONS = ("share", "rho", "budget", "clean_accuracy", "triggered_accuracy", "found_accuracy")
RATES = ("attack_success_rate", "before_attack_success_rate", "reference_attack_success_rate")
UNBOUNDED = ("gaussian",)  # kinds of poison whose second score is no rate
UNLEARNING = ("training", "retain", "forget", "edit", "search")  # phases of an unlearning, in the order they are drawn
UNTOUCHED = "none"  # the method that leaves the model as it is
NOT_UNLEARNING = ("evaluate", "total")
LONG = ("trace", "statistics", "seconds", "extra")  # no columns of a table, or several


@dataclass(frozen=True, kw_only=True)
class Row:
    """One unlearning, at one ρ and one step size.

    kind                   of the poison, see `Poison`
    poisoned, found        |S_m| and |S_f|; share: found / poisoned
    budget                 gradient steps that were allowed, as a share of the training's iterations
    *_accuracy, *_rate     in [0, 1]; triggered_accuracy and attack_success_rate hold the two `scores` of the poison,
                           whatever its kind, and of Gaussian noise the second is the GUS, which has no bounds
    scores                 all metrics by name
    before_*, reference_*  of the poisoned model, and of the model that was trained without any of S_m
    poison_healed          percent of reference_triggered_accuracy
    poison_removed         percent of the attack's effect, see `potion_fast.bench.metrics.poison_removed`
    model_damage           percentage points of clean accuracy
    statistics             of Gaussian noise: I_z of the samples "before" and "after", and quantiles of "fresh" noise's
    learning_rate          the one that was chosen, where several were tried
    training_samples, training_steps   size of the training set, and gradient steps of the training
    seconds                wall-clock time by phase
    retain_from            how Ω_r came about
    command                makes this row again
    trace                  lists (step, s, percentile, alpha, accuracy on S_f, dampened, clean accuracy, triggered
                           accuracy), the last two None where they were not measured
    file                   the result file it was read from
    extra                  what the file says besides
    """

    attack: str
    data: str
    model: str
    method: str
    seed: int
    poisoned: int
    found: int
    preset: str | None = None
    width: int | None = None
    share: float | None = None
    one_shot: bool | None = None
    kind: str | None = None
    budget: float | None = None
    objective: str | None = None
    group_size: int | str | None = None
    rho: float | None = None
    s_step: float | None = None
    strategy: str | None = None
    settings: Mapping[str, Any] | None = None
    clean_accuracy: float | None = None
    triggered_accuracy: float | None = None
    attack_success_rate: float | None = None
    found_accuracy: float | None = None
    before_clean_accuracy: float | None = None
    before_triggered_accuracy: float | None = None
    before_attack_success_rate: float | None = None
    before_found_accuracy: float | None = None
    reference_triggered_accuracy: float | None = None
    reference_clean_accuracy: float | None = None
    reference_attack_success_rate: float | None = None
    scores: Mapping[str, Any] | None = None
    before_scores: Mapping[str, Any] | None = None
    reference_scores: Mapping[str, Any] | None = None
    statistics: Mapping[str, Any] | None = None
    poison_healed: float | None = None
    poison_removed: float | None = None
    model_damage: float | None = None
    dampened: int | None = None
    alpha: float | None = None
    steps: int | None = None
    evaluations: int | None = None
    reason: str | None = None
    gradient_steps: int | None = None
    learning_rate: float | None = None
    training_samples: int | None = None
    training_steps: int | None = None
    seconds: Mapping[str, Any] | None = None
    retain_from: str | None = None
    warnings: Sequence[Any] | None = None
    command: str | None = None
    trace: Sequence[Any] | None = None
    file: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> tuple[str, str, int | None]:
        """What was attacked: data, model, width."""
        return self.data, self.model, self.width

    @property
    def scenario(self) -> tuple[Any, ...]:
        """Everything that the paper averages over but the seed."""
        return (self.attack, *self.setting, self.poisoned, self.found)

    @property
    def alone(self) -> bool:
        """One-shot: a single sample was found."""
        return self.found == 1 if self.one_shot is None else self.one_shot

    @property
    def part(self) -> float:
        """|S_f| / |S_m|."""
        return self.found / self.poisoned

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of the unlearning by phase, without those of its evaluation."""
        given = {name: value for name, value in (self.seconds or {}).items() if name not in NOT_UNLEARNING}
        return {name: float(value) for name, value in given.items() if value is not None}

    def at(self, rho: float, s_step: float) -> bool:
        """Whether the row is of that ρ and that step size, or of a method without them."""
        return all(
            mine is None or math.isclose(mine, wanted, abs_tol=1e-9)
            for mine, wanted in ((self.rho, rho), (self.s_step, s_step))
        )


TYPES = {name: hint for name, hint in get_type_hints(Row).items() if name not in ("file", "extra")}


def read_rows(results: str | os.PathLike[str]) -> list[Row]:
    """All rows of the .json files of a folder, by file name. Raises FileError for a missing, broken or foreign file."""
    folder = Path(results)
    if not folder.is_dir():
        raise FileError(f"{folder} is not there; `potion-fast sweep` writes it")
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    rows = [row for path in paths for row in _read(path)]
    if not rows:
        raise FileError(f"{folder} holds no results yet; `potion-fast sweep` writes them")
    starts = {(row.scenario, row.seed): row.found_accuracy for row in rows if row.method == UNTOUCHED}
    return [row if row.before_found_accuracy is not None else _started(row, starts) for row in rows]


def _started(row: Row, starts: Mapping[Any, float | None]) -> Row:
    """With the accuracy on S_f that the untouched model had, where its row says so."""
    return replace(row, before_found_accuracy=starts.get((row.scenario, row.seed)))


def _read(path: Path) -> list[Row]:
    content = read_json(path)
    found = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise FileError(f"{path} is not a result of a sweep: it has no list of rows; move it elsewhere")
    return [_row(path, number, each) for number, each in enumerate(found, start=1)]


def _row(path: Path, number: int, told: dict[str, Any]) -> Row:
    if missing := [name for name in REQUIRED if told.get(name) is None]:
        raise FileError(f"{path}: row {number} has no {', '.join(missing)}; it is not a result of a sweep, or broken")
    told = {SWAPPED.get(name, name): value for name, value in told.items() if name not in SWAPPED or value is not None}
    for name, hint in TYPES.items():
        if not _fits(told.get(name), hint):
            raise FileError(f"{path}: row {number} has {name} {told[name]!r}, which is of the wrong type")
    bounded = FRACTIONS if told.get("kind") in UNBOUNDED else (*FRACTIONS, *RATES)
    bad = [name for name in bounded if not 0 <= (told.get(name) or 0) <= 1]
    if bad or not 1 <= told["found"] <= told["poisoned"]:
        named = bad[0] if bad else "found"
        raise FileError(f"{path}: row {number} has {named} {told[named]!r}, which is out of range")
    if not all(value is None or _is_number(value) for value in (told.get("seconds") or {}).values()):
        raise FileError(f"{path}: row {number} has seconds {told['seconds']!r}, which are no numbers")
    if not all(isinstance(line, list) and len(line) == 8 for line in told.get("trace") or ()):
        raise FileError(f"{path}: row {number} has a trace whose lines are not of 8 values")
    known = {name: value for name, value in told.items() if name in TYPES} | {"attack": _poison(told["attack"])}
    return Row(**known, file=path.name, extra={name: told[name] for name in told if name not in TYPES})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not


def _poison(attack: str) -> str:
    """The registered poison that a sweep calls by its first word, as "sine"; any other name as it is."""
    return next((name for name in POISONS if name.startswith(f"{attack}-")), attack)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type; a whole number is a float too, a switch is no number."""
    kinds = [getattr(kind, "__origin__", kind) for kind in get_args(hint) if not isinstance(kind, str)] or [hint]
    if value is None:
        return type(None) in kinds
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, str):
        return str in kinds  # a text is a sequence too
    return isinstance(value, tuple(kinds)) or (float in kinds and isinstance(value, int))


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """One line per row, without its trace and statistics; the phases of `seconds` and what else the files say are
    further columns.
    """
    plain = [each.name for each in fields(Row) if each.name not in LONG]
    phases = list(dict.fromkeys(name for row in rows for name in row.seconds or {}))
    others = sorted({name for row in rows for name in row.extra})
    options: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with written_whole(path) as temporary, temporary.open("w", **options) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*plain, *(f"seconds_{phase}" for phase in phases), *others])
        for row in rows:
            seconds = row.seconds or {}
            values = [getattr(row, name) for name in plain] + [seconds.get(phase) for phase in phases]
            writer.writerow(_text(value) for value in [*values, *(row.extra.get(name) for name in others)])


def _text(value: Any) -> Any:
    """A value as a cell: lists of sentences joined, other lists and mappings as JSON."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "; ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
