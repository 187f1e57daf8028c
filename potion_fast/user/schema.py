"""Settings whose types, bounds, units and help texts are at their fields; each error is one line."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import Self

from ..errors import PotionError
from ..utils.did_you_mean import did_you_mean
from .indices import is_list

PATHS = ("DIR", "FILE")  # metavars of fields that hold paths
FILE_OR_LIST = "FILE|LIST"  # of fields that hold a path, or indices with commas between them
SEEDS = 2**32  # NumPy takes no larger ones
BOUNDS = {  # by pydantic's name of the error: words for it, and where the bound stands
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def setting(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    default_text: str | None = None,
    choices: Collection[str] | None = None,
    many: bool = False,
    flag: bool = True,
    left_out: bool = False,
    **bounds: float,
) -> Any:
    """A field of a `Schema`: one key in YAML and one flag on the command line.

    Args:
        default: its value where none is given; `...` for one that must be given, a positional argument.
        help: what it is, as --help says it.
        metavar: the placeholder of the value in --help: its unit where it has one; "DIR" and "FILE" are paths. None: a
            switch, or a choice.
        default_text: a description of the default, if its value does not explain it.
        choices: those of the command line; without them and a metavar those of the field's Literal.
        many: a tuple is given as several arguments rather than as one with commas.
        flag: whether the command line has it.
        left_out: whether a file leaves it out where it is None.
        **bounds: of the value, as pydantic calls them: `ge`, `gt`, `le`, `lt`.

    Returns:
        A pydantic field, with these words in its `json_schema_extra`.
    """
    extra: Any = {
        "metavar": metavar,
        "default_text": default_text,
        "choices": choices,
        "many": many,
        "flag": flag,
        "left_out": left_out,
    }
    limits: dict[str, Any] = {**bounds}
    return Field(default, description=help, json_schema_extra=extra, **limits)


def extra_of(field: FieldInfo, key: str) -> Any:
    """What `setting` was given for a field under this name; None where it was not given."""
    return field.json_schema_extra.get(key) if isinstance(field.json_schema_extra, dict) else None


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Integers = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]  # a list in YAML
Means = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_as_tuple)]  # of pixels in [0, 1]
Deviations = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(_as_tuple)]


class Schema(BaseModel):
    """Settings that are checked, whether they come from Python, a YAML file or flags; frozen.

    An unknown name, a wrong type or a number out of its bounds is an error. A whole number passes for a float; nothing
    else is converted.

    Attributes:
        error_type: what is raised for them, with one line that names the field, the value and what it must be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    error_type: ClassVar[type[PotionError]] = PotionError

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            _raise_in_one_line(error, type(self), values)

    @classmethod
    def flag_fields(cls) -> dict[str, FieldInfo]:
        """The fields that the command line has, in the order of --help."""
        return {name: field for name, field in cls.model_fields.items() if extra_of(field, "flag") is not False}

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that a file may have."""
        return list(cls.model_fields)

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any]) -> Self:
        """Settings from plain values, as YAML has them.

        Raises:
            PotionError: an unknown or a missing key, or a wrong value.
        """
        for key in values:
            if not isinstance(key, str):
                cls.refuse_key(key)
        return cls(**values)

    @classmethod
    def from_flags(cls, options: Mapping[str, Any]) -> Self:
        """Settings from the command line. Flags that were not given are not among the options."""
        return cls(**{name: options[name] for name in cls.flag_fields() if name in options})

    @classmethod
    def refuse_key(cls, key: object) -> NoReturn:
        """Raise for a key that there is not."""
        more = did_you_mean(key, cls.keys()) or f"; known: {', '.join(cls.keys())}"  # there may be sixty
        raise cls.error_type(f"unknown key {key!r} in the configuration{more}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML, without those that are None where a file leaves them out."""
        fields = type(self).model_fields
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self
            if value is not None or not extra_of(fields[name], "left_out")
        }

    def given(self) -> dict[str, Any]:
        """The values that were given, without the defaults."""
        return {name: value for name, value in self if name in self.model_fields_set}

    def updated(self, **changes: Any) -> Self:
        """The same settings with these changes, checked."""
        return type(self)(**{**self.given(), **changes})

    def absolute_paths(self) -> dict[str, str]:
        """The paths among the values, made absolute: a later run may read these settings from another folder."""
        paths = {name: value for name, value in self if value is not None and self._is_path(name, value)}
        return {name: os.path.abspath(os.path.expanduser(path)) for name, path in paths.items()}

    @classmethod
    def _is_path(cls, name: str, value: str) -> bool:
        metavar = extra_of(cls.model_fields[name], "metavar")
        return metavar in PATHS or (metavar == FILE_OR_LIST and not is_list(value))


def _raise_in_one_line(error: ValidationError, schema: type[Schema], values: Mapping[str, Any]) -> NoReturn:
    """Raise what a validator raised, or an error that names the first field that is wrong."""
    details = error.errors(include_url=False)
    if isinstance(cause := details[0].get("ctx", {}).get("error"), PotionError):
        raise cause from None
    if not details[0]["loc"]:  # of a validator of all fields together
        raise schema.error_type(details[0]["msg"].removeprefix("Value error, ")) from None
    name = str(details[0]["loc"][0])
    same = [detail for detail in details if detail["loc"][0] == name]
    bounds = [detail for detail in same if detail["type"] in BOUNDS]  # of a union's types one alone has them
    detail = (bounds or same)[0]
    kind, value, inside = detail["type"], detail["input"], type(detail["loc"][-1]) is int
    if kind == "extra_forbidden":
        schema.refuse_key(name)
    if kind == "missing":
        raise schema.error_type(f"the configuration lacks the key {name!r}") from None
    wanted = schema.model_fields[name].annotation
    if inside and get_origin(wanted) is list:
        name, wanted = f"each of {name}", get_args(wanted)[0]
    elif inside and kind in BOUNDS:
        name = f"each of {name}"
    else:
        value = values[name]
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        bound = detail["ctx"][key]
        must = f"{words} {'2^32' if bound == SEEDS else format(bound, 'g')}, not {value}"
    elif kind == "finite_number":
        must = f"finite, not {value}"
    elif kind == "too_short":
        must = f"a list of at least {detail['ctx']['min_length']}, not {value!r}"
    elif kind == "literal_error" and isinstance(value, str):
        must = f"{_format_type(wanted)}, not {value!r}{did_you_mean(value, words_of(wanted))}"
    elif kind.endswith(("_type", "literal_error")) or kind in ("is_instance_of", "sequence_str"):
        must = f"{_format_type(wanted)}, not {value!r}"
    else:
        raise schema.error_type(f"{name} {value!r}: {detail['msg'].removeprefix('Value error, ')}") from None
    raise schema.error_type(f"{name} must be {must}") from None


def words_of(annotation: Any) -> list[str]:
    """The words that a value of this type may be."""
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for part in get_args(annotation) for word in words_of(part)]


def _format_type(annotation: Any) -> str:
    """What a value must be."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _format_type(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(_format_type(part) for part in parts if part is not NoneType)
    if origin is Literal:
        *others, last = map(repr, parts)
        return f"{', '.join(others)} or {last}" if others else last
    if origin in (tuple, list, Sequence):
        return "a list of texts" if str in parts else "a list of numbers"
    if origin is dict:
        return "a mapping"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(annotation, str(getattr(annotation, "__name__", annotation)))
