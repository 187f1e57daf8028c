"""The fields of a configuration: each value is of its type and in its range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ...errors import PotionError

AT_LEAST = {
    **dict.fromkeys(("train_size", "image_size", "width", "layers", "length", "patch_size", "poisoned", "found"), 1),
    **dict.fromkeys(("iterations", "batch_size", "group_size", "max_steps", "restarts", "steps"), 1),
    **dict.fromkeys(("target", "target_class", "intended_class", "momentum", "weight_decay", "validation"), 0),
    **dict.fromkeys(("seed", "training_seed", "workers", "shift", "tolerance"), 0),
}
ABOVE_ZERO = ("lr", "variance", "epsilon", "budget")


@dataclass(frozen=True)
class Checked:
    """A configuration that raises PotionError for a field of a wrong type or a number out of its range."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise PotionError(f"{name} must be {_in_words(hint)}, not {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise PotionError(f"{name} must be finite, not {value}")
            if name in AT_LEAST and isinstance(value, (int, float)) and value < AT_LEAST[name]:
                raise PotionError(f"{name} must be at least {AT_LEAST[name]}, not {value}")
            if name in ABOVE_ZERO and value is not None and value <= 0:
                raise PotionError(f"{name} must be above 0, not {value}")
            if name in ("seed", "training_seed") and value is not None and value >= 2**32:
                raise PotionError(f"{name} must be below 2^32, not {value}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number also passes for a float."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(part, get_args(hint)[0]) for part in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_in_words(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of numbers"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
