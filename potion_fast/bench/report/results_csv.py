"""All rows of a sweep as one tidy CSV table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from typing import Any

from ...utils.atomic_files import written_whole
from ..sweep.rows import Row

FIRST = (
    "attack",
    "attack_key",
    "kind",
    "data",
    "model",
    "method",
    "seed",
    "poisoned",
    "found",
    "preset",
    "width",
    "share",
    "one_shot",
    "budget",
    "objective",
    "group_size",
    "rho",
    "s_step",
    "strategy",
    "settings",
)
LAST = (
    "found_accuracy",
    "before_found_accuracy",
    "poison_healed",
    "poison_removed",
    "model_damage",
    "dampened",
    "alpha",
    "steps",
    "evaluations",
    "reason",
    "gradient_steps",
    "learning_rate",
    "training_samples",
    "training_steps",
    "retain_from",
    "warnings",
    "command",
    "file",
)
SCORES = {"": "scores", "before_": "before_scores", "reference_": "reference_scores"}  # prefix of columns -> field


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write one line per row, without its trace and statistics.

    Each score is a column of its own name, with "before_" and "reference_" for those of the other two models, and so is
    each phase of `seconds`, and each of the attack's facts.
    """
    phases, facts = _names(rows, "seconds"), _names(rows, "facts")
    scores = {prefix: _names(rows, field) for prefix, field in SCORES.items()}
    columns = [*FIRST, *(f"{prefix}{name}" for prefix, names in scores.items() for name in names), *LAST]
    options: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with written_whole(path) as temporary, temporary.open("w", **options) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *(f"seconds_{phase}" for phase in phases), *facts])
        for row in rows:
            values = [getattr(row, name) for name in FIRST]
            for prefix, names in scores.items():
                values += [getattr(row, SCORES[prefix]).get(name) for name in names]
            values += [getattr(row, name) for name in LAST]
            values += [row.seconds.get(phase) for phase in phases] + [row.facts.get(fact) for fact in facts]
            writer.writerow(map(_text, values))


def _names(rows: Sequence[Row], field: str) -> list[str]:
    """The keys of that field in all rows, in the order in which they first stand there."""
    return list(dict.fromkeys(name for row in rows for name in getattr(row, field)))


def _text(value: Any) -> Any:
    """A value as a cell: lists of sentences joined, other lists and mappings as JSON."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "; ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
