"""The flags of the command line that follow from the fields of a schema."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from typing_extensions import override

from .schema import Schema, extra_of, words_of


class OrFactory(list[str]):
    """Names to choose from; a "module:factory" may be given too."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or ":" in str(name)


def add_flags(parser: argparse._ActionsContainer, schema: type[Schema], names: Collection[str] | None = None) -> None:
    """Add a flag for each field of a schema, with its type, choices, unit, help text and default.

    A field that must be given is a positional argument. What is not given is not among the parsed options.

    Args:
        parser: of the command, or a group of its arguments.
        schema: whose fields they are, see `Schema.from_flags`.
        names: of the fields; None: all.
    """
    for name, field in schema.flag_fields().items():
        if names is None or name in names:
            _add_flag(parser, name, field)


def _add_flag(parser: argparse._ActionsContainer, name: str, field: FieldInfo) -> None:
    help_text = (field.description or "").replace("%", "%%")  # argparse fills in %(prog)s and others
    if field.is_required():
        parser.add_argument(name, metavar=name.upper(), help=help_text)
        return
    flag, unset = "--" + name.replace("_", "-"), argparse.SUPPRESS
    if field.annotation is bool and field.default:
        parser.add_argument("--no-" + flag[2:], dest=name, action="store_false", default=unset, help=help_text)
    elif field.annotation is bool:
        parser.add_argument(flag, action="store_true", default=unset, help=help_text)
    else:
        default = str(extra_of(field, "default_text") or field.default).replace("%", "%%")
        parser.add_argument(
            flag,
            type=_reader(field),
            nargs="+" if extra_of(field, "many") else None,
            action=_Flat if extra_of(field, "many") else "store",
            choices=choices_of(field),
            metavar=extra_of(field, "metavar"),
            default=unset,
            help=f"{help_text} (default: {default})",
        )


def choices_of(field: FieldInfo) -> Collection[str] | None:
    """What the command line offers for a field: its choices, or without a metavar those of its Literal."""
    if extra_of(field, "choices") is not None or extra_of(field, "metavar") is not None:
        choices: Collection[str] | None = extra_of(field, "choices")
        return choices
    return words_of(field.annotation) or None


def _reader(field: FieldInfo) -> Any:
    """What reads a field's value from the command line."""
    parts = list(_parts(field.annotation))
    for part in parts:
        if get_origin(part) is tuple:
            of = list(_parts(get_args(part)[0]))
            return str if str in of else _list_of(float if float in of else int)  # the schema takes texts apart
    words = words_of(field.annotation)
    numbers = [part for part in parts if part in (int, float)]
    if numbers and words:
        return lambda text: _number_or_word(text, words)
    return numbers[0] if numbers else str


def _parts(annotation: Any) -> Iterator[Any]:
    """The types of a union, without None and without annotations."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    elif annotation is not NoneType:
        yield annotation


def _number_or_word(text: str, words: Collection[str]) -> int | str:
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        wanted = " or ".join(f'"{word}"' for word in words)
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {wanted}") from None


def _list_of(kind: type[int] | type[float]) -> Callable[[str], tuple[float, ...]]:
    """What reads numbers with commas between them."""

    def read(text: str) -> tuple[float, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            example = "whole numbers, as 3,5" if kind is int else "numbers, as 0.5,0.25"
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {example}") from None

    return read


class _Flat(argparse.Action):
    """Keeps several lists of numbers as one: they come with spaces or with commas between them."""

    @override
    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        setattr(namespace, self.dest, tuple(number for numbers in values for number in numbers))
