"""The rows of a sweep: one typed record per unlearning, as the sweep writes it and the report reads it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from ...errors import FileError
from ...user.read_data import read_json
from .earlier_rows import attacks_of_sweep, current_row

FORMAT = 2  # of a result file
UNTOUCHED = "none"  # the method that leaves the model as it is
PHASES = ("training", "forget", "retain", "search", "evaluate")  # of an unlearning; `seconds` holds their "total" too
NOT_UNLEARNING = ("evaluate", "total")  # entries of `seconds`

When = Literal["after", "before", "reference"]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Scores = dict[str, float | None]  # None: not finite


class TracePoint(NamedTuple):
    """A candidate of a search, as a row's trace holds it.

    Attributes:
        step: its number, from 1.
        s: s_iter of Potion, algorithm 1; None where the strategy has no schedule.
        percentile: p of Potion, eq. 7; None where the strategy has no schedule.
        alpha: α, that percentile of Ω_f / Ω_r.
        found_accuracy: share of S_f that is still given its poison label, in [0, 1].
        dampened: number of weights that differ from the poisoned model's.
        clean_accuracy, attacked_accuracy: on the test set, in [0, 1]; None where they were not measured.
    """

    step: int
    s: float | None
    percentile: float | None
    alpha: float | None
    found_accuracy: float
    dampened: int
    clean_accuracy: float | None
    attacked_accuracy: float | None


class Row(BaseModel):
    """One unlearning, at one ρ and one step size.

    Attributes:
        attack: registered name of the attack, see `potion_fast.bench.attacks`.
        attack_key: what the sweep calls it.
        kind: of the attack, such as "trigger".
        score_names: names of the two scores that this kind is judged by: the accuracy on attacked samples with their
            clean labels, and what the attack reaches.
        data, model, width: what was attacked.
        preset: name of the sweep.
        seed: of all that is random.
        poisoned, found: |S_m| and |S_f|.
        method: registered name of the unlearner.
        budget: gradient steps that were allowed, as a share of the training's iterations.
        objective, group_size: of the importances; None for a method that takes none.
        rho, s_step, strategy: of a search; None for a method without one.
        settings: of the method, other than these.
        scores, before_scores, reference_scores: every metric by its own name: of the unlearnt model, of the poisoned
            one, and of one that was trained without any of S_m.
        found_accuracy, before_found_accuracy: share of S_f that is given its poison label after and before, in [0, 1].
        poison_healed: percent of the reference's accuracy on attacked samples; None where the kind has no such score.
        poison_removed: percent of the attack's effect, see `potion_fast.bench.metrics.poison_removed`.
        model_damage: percentage points of clean accuracy.
        statistics: of Gaussian noise: I_z of the samples "before" and "after", and quantiles of "fresh" noise's.
        dampened, alpha: weights that were dampened, and from which ratio of importances on.
        steps, evaluations, reason: of the search: steps to its end, evaluations of S_f, and why it ended.
        gradient_steps: batches that a gradient was taken of.
        learning_rate: the one that was chosen, where several were tried.
        training_samples, training_steps: size of the training set, and gradient steps of the training.
        seconds: wall-clock time by phase, see `PHASES`.
        retain_from: how Ω_r came about.
        facts: what else the attack says of its data: of a trigger word how many texts hold it, by which rule.
        warnings: what deserves a second look, as sentences.
        command: makes this row again.
        trace: of a search at the default ρ and step size.
        file: the result file it was read from.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    attack: str
    attack_key: str
    kind: str
    score_names: tuple[str, str]
    data: str
    model: str
    width: int | None = None
    preset: str | None = None
    seed: int
    poisoned: Count
    found: Annotated[int, Field(ge=1)]
    method: str
    budget: Fraction | None = None
    objective: str | None = None
    group_size: int | str | None = None
    rho: Fraction | None = None
    s_step: float | None = None
    strategy: str | None = None
    settings: dict[str, Any] = {}
    scores: Scores
    before_scores: Scores
    reference_scores: Scores
    found_accuracy: Fraction | None = None
    before_found_accuracy: Fraction | None = None
    poison_healed: float | None = None
    poison_removed: float | None = None
    model_damage: float | None = None
    statistics: dict[str, list[float]] | None = None
    dampened: int | None = None
    alpha: float | None = None
    steps: int | None = None
    evaluations: int | None = None
    reason: str | None = None
    gradient_steps: int | None = None
    learning_rate: float | None = None
    training_samples: int | None = None
    training_steps: int | None = None
    seconds: dict[str, FiniteFloat] = {}
    retain_from: str | None = None
    facts: dict[str, Any] = {}
    warnings: list[str] = []
    command: str | None = None
    trace: list[TracePoint] | None = None
    file: str = ""

    @model_validator(mode="after")
    def _in_range(self) -> Row:
        if self.found > self.poisoned:
            raise ValueError(f"found {self.found!r}, which is out of range")
        for scores in (self.scores, self.before_scores, self.reference_scores):
            for name, value in scores.items():
                if value is None or math.isnan(value) or not name.endswith(("_accuracy", "_rate")):
                    continue
                if not 0 <= value <= 1:
                    raise ValueError(f"{name} {value!r}, which is out of range")
        return self

    @property
    def setting(self) -> tuple[str, str, int | None]:
        """What was attacked: data, model, width."""
        return self.data, self.model, self.width

    @property
    def scenario(self) -> tuple[Any, ...]:
        """Everything that the papers average over but the seed."""
        return (self.attack_key, *self.setting, self.poisoned, self.found)

    @property
    def attack_name(self) -> str:
        """The attack in print: as the sweep calls it; the registered name where that is a short form of it."""
        return self.attack if self.attack.startswith(f"{self.attack_key}-") else self.attack_key

    @property
    def one_shot(self) -> bool:
        """Whether a single sample was found."""
        return self.found == 1

    @property
    def share(self) -> float:
        """|S_f| / |S_m|."""
        return self.found / self.poisoned

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of the unlearning by phase, without those of its evaluation."""
        return {name: value for name, value in self.seconds.items() if name not in NOT_UNLEARNING}

    def score(self, name: str, when: When = "after") -> float | None:
        """A metric by its name, of the unlearnt model, of the poisoned one, or of the reference; None without it."""
        if when == "before":
            return self.before_scores.get(name)
        return (self.scores if when == "after" else self.reference_scores).get(name)

    def clean_accuracy(self, when: When = "after") -> float | None:
        """On clean test samples, in [0, 1]."""
        return self.score("clean_accuracy", when)

    def attacked_accuracy(self, when: When = "after") -> float | None:
        """On the samples that the attack is judged by, with their clean labels, in [0, 1]."""
        return self.score(self.score_names[0], when)

    def attack_score(self, when: When = "after") -> float | None:
        """What the attack reaches, in the unit of its kind: a rate for most, a GUS for noise."""
        return self.score(self.score_names[1], when)

    def at(self, rho: float, s_step: float) -> bool:
        """Whether the row is of that ρ and that step size, or of a method without them."""
        return all(
            own is None or math.isclose(own, wanted, abs_tol=1e-9)
            for own, wanted in ((self.rho, rho), (self.s_step, s_step))
        )


def file_content(rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """The content of a result file.

    Args:
        rows: of one unlearning.
        seconds: that all of it took.
    """
    return {
        "format": FORMAT,
        "rows": [row.model_dump(exclude={"file"}) for row in rows],
        "measured": {"seconds": seconds},
    }


def read_rows(results: str | os.PathLike[str]) -> list[Row]:
    """All rows of the .json files of a folder, by file name.

    Files of earlier versions are read too: what they call an attack is looked up in the sweep.yaml next to the folder.

    Raises:
        FileError: a file is missing, broken or foreign.
    """
    folder = Path(results)
    if not folder.is_dir():
        raise FileError(f"{folder} is not there; `potion-fast sweep` writes it")
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    attacks = attacks_of_sweep(folder.parent / "sweep.yaml")
    rows = [row for path in paths for row in _read(path, attacks)]
    if not rows:
        raise FileError(f"{folder} holds no results yet; `potion-fast sweep` writes them")
    starts = {(row.scenario, row.seed): row.found_accuracy for row in rows if row.method == UNTOUCHED}
    return [row if row.before_found_accuracy is not None else _started(row, starts) for row in rows]


def _started(row: Row, starts: Mapping[Any, float | None]) -> Row:
    """With the accuracy on S_f that the untouched model had, where its row says so."""
    return row.model_copy(update={"before_found_accuracy": starts.get((row.scenario, row.seed))})


def _read(path: Path, attacks: Mapping[tuple[str, str], str]) -> list[Row]:
    content = read_json(path)
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FileError(f"{path} is not a result of a sweep: it has no list of rows; move it elsewhere")
    form = content.get("format", 1)
    if form not in (1, FORMAT):
        raise FileError(f"{path} has the format {form!r}, and this version reads up to {FORMAT}; use a newer version")
    if form == 1:
        rows = [current_row(row, attacks, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]
    return [_row(path, number, row) for number, row in enumerate(rows, start=1)]


def _row(path: Path, number: int, content: dict[str, Any]) -> Row:
    names = content.get("score_names")
    if isinstance(names, list):  # JSON knows no tuple
        content = {**content, "score_names": tuple(names)}
    try:
        return Row.model_validate({**content, "file": path.name})
    except ValidationError as error:
        raise FileError(f"{path}: row {number} has {_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    """The first error of a row."""
    found = error.errors()
    if missing := [
        str(detail["loc"][0]) for detail in found if detail["type"] == "missing" and len(detail["loc"]) == 1
    ]:
        return f"no {', '.join(missing)}; it is not a result of a sweep, or broken"
    first = found[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    if name == "trace" and len(first["loc"]) > 1:
        return f"a trace whose lines are not of {len(TracePoint._fields)} values, or of other types"
    if first["type"] == "extra_forbidden":
        return f"{name}, which no row of a sweep has"
    out_of_range = first["type"].startswith(("greater_than", "less_than", "finite"))
    return f"{name} {first['input']!r}, which is {'out of range' if out_of_range else 'of the wrong type'}"
