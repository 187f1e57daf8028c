"""Validation of the settings of a dataclass by its annotations."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ...errors import PotionError

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def check_settings(settings: object, name: str) -> None:
    """Compare every field of a dataclass with its annotation: its type, and bounds as `Annotated[float, Field(gt=0)]`.

    Nothing is converted, but a float may be given as an int. Floats must be finite.

    Args:
        settings: an instance of a dataclass whose annotations can be evaluated in its module.
        name: what it is called in errors.

    Raises:
        PotionError: a value of the wrong type or out of range.
    """
    kind: Any = type(settings)
    for setting, adapter in _adapters(kind).items():
        value = getattr(settings, setting)
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            raise PotionError(f"{name}: {setting} must {_requirement(error)}, not {value!r}") from error


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {setting.name: TypeAdapter(hints[setting.name], config=STRICT) for setting in fields(kind)}


def _requirement(error: ValidationError) -> str:
    """What pydantic found missing, as "be greater than 0 or be None"."""
    requirements = []
    for problem in error.errors(include_url=False):
        message = re.sub(r"^(Input|Value) should ", "", problem["msg"]).replace("an instance of Sequence", "a list")
        if problem["type"] == "sequence_str":
            message = "be a list"
        index = [place for place in problem["loc"] if isinstance(place, int)]
        requirements.append(f"{message} at position {index[0]}" if index else message.partition(" after ")[0])
    return " or ".join(dict.fromkeys(requirements))
