"""Options of attacks among the fields of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from ...errors import DataError
from ...user.flags import choices_of
from ...user.schema import setting
from ..attacks.options import OptionModel
from ..attacks.registry import SharedOption


def flag_of(option: SharedOption, of_data: str = "") -> FieldInfo:
    """What the command line has for an option that attacks share.

    Args:
        option: the fields of all attacks that have it.
        of_data: a description of its defaults by data set.
    """
    fields = list(option.fields.values())
    choices = dict.fromkeys(choice for field in fields for choice in choices_of(field) or ())
    field: FieldInfo = setting(
        None,
        option.help,
        metavar=option.metavar,
        default_text="; ".join(filter(None, (option.default_text, of_data))),
        choices=list(choices) or None,
    )
    field.annotation = fields[0].annotation
    return field


def refuse_foreign(refusal: str, options: Mapping[str, Any], kind: type[OptionModel]) -> None:
    """Raise for options that a model does not have.

    Args:
        refusal: how the error begins.
        options: by name.
        kind: the model.

    Raises:
        DataError: an option that it does not have.
    """
    known = [name for name in kind.model_fields if name != "poison"]
    if foreign := [name for name in options if name not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise DataError(f"{refusal} {', '.join(foreign)}; {has}")
