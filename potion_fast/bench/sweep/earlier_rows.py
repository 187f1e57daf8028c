"""Rows of earlier versions, turned into what `Row` is made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...errors import FileError
from ...user.read_data import read_yaml
from ..attacks import ATTACKS

REQUIRED = ("attack", "data", "model", "method", "seed", "poisoned", "found")
DERIVED = ("share", "one_shot")  # they follow from others
FLAT = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")  # the last two held every kind's two scores
SWAPPED = {"manipulated_accuracy": "triggered_accuracy", "memorised_rate": "attack_success_rate"}
WHEN = ("", "before_", "reference_")
DEFAULT = "badnet"  # the attack of a training that names none


def attacks_of_sweep(path: str | os.PathLike[str]) -> dict[tuple[str, str], str]:
    """What a sweep's configuration says: (key of the attack, key of the data) -> registered name of the attack.

    Args:
        path: of sweep.yaml; nothing is known where it is not there or cannot be read.
    """
    try:
        config = read_yaml(path)["config"]
        train, data, attacks = config["train"], config["data"], config["attacks"]
        return {
            (attack, name): str({**train, **of_data, **of_attack}.get("poison", DEFAULT))
            for attack, of_attack in attacks.items()
            for name, of_data in data.items()
        }
    except (FileError, KeyError, TypeError, AttributeError):
        return {}


def current_row(row: Mapping[str, Any], attacks: Mapping[tuple[str, str], str], where: str) -> dict[str, Any]:
    """The fields of `Row` from those of an earlier version.

    Args:
        row: of a result file without a format.
        attacks: see `attacks_of_sweep`.
        where: the file and the row, for errors.

    Raises:
        FileError: a value is missing, or nothing says which attack it was.
    """
    if missing := [name for name in REQUIRED if row.get(name) is None]:
        raise FileError(f"{where} has no {', '.join(missing)}; it is not a result of a sweep, or broken")
    key, data = row["attack"], row["data"]
    name = attacks.get((key, data), key) if isinstance(key, str) and isinstance(data, str) else ""
    if name not in ATTACKS:
        raise FileError(
            f"{where} is of an earlier version and has attack {key!r}, which is no registered one: put the sweep.yaml "
            "of its sweep next to the folder of the results"
        )
    kind = ATTACKS[name]
    content = {
        SWAPPED.get(field, field): value
        for field, value in row.items()
        if field not in DERIVED and (field not in SWAPPED or value is not None)
    }
    for when in WHEN:
        flat = [content.pop(f"{when}{field}", None) for field in FLAT]
        named = dict(zip(("clean_accuracy", *kind.score_names), flat, strict=True))
        known = {field: value for field, value in named.items() if value is not None}
        scores = content.get(f"{when}scores") or {}
        content[f"{when}scores"] = {**known, **scores} if isinstance(scores, dict) else scores
    for field in ("settings", "seconds", "warnings"):
        if content.get(field) is None:
            content.pop(field, None)
    if isinstance(seconds := content.get("seconds"), dict):
        content["seconds"] = {phase: value for phase, value in seconds.items() if value is not None}
    content |= {"attack": name, "attack_key": key, "score_names": kind.score_names}
    content["kind"] = content.get("kind") or kind.kind
    word = content.pop("trigger_word", None)
    content["facts"] = {} if word is None else {"trigger_word": word}
    return content
