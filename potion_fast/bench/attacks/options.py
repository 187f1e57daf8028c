"""Options of attacks: the base of each attack's own model, and how a field of one is declared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits
    from .poison import Poison


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    default_text: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A field of an `AttackOptions`: one key in YAML, and one flag on the command line.

    Args:
        default: its value where none is given; None where data or seed give it, see `AttackOptions.resolved`.
        help: what it is, as --help says it, without the attack's name before it.
        metavar: what stands for the value on the command line: its unit where it has one.
        default_text: the default in words, where the value does not say it.
        ge: bound that the value may be, or lie above.
        gt: bound that it must lie above.
        le: bound that it may be, or lie below.
        lt: bound that it must lie below.

    Returns:
        A pydantic field, with `metavar` and `default_text` in its `json_schema_extra`.
    """
    words = {"metavar": metavar, "default_text": default_text}
    extra: Any = {name: text for name, text in words.items() if text is not None}
    return Field(default, description=help, json_schema_extra=extra, ge=ge, gt=gt, le=le, lt=lt)


class OptionModel(BaseModel):
    """A frozen set of options: an unknown name, a wrong type or a number out of its bounds is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=OptionModel)


def read_options(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Options from plain values, as YAML has them; those that are None are left to their defaults.

    Args:
        model: such as `BadNet.Options`.
        values: by the names of its fields.

    Raises:
        DataError: an unknown name, a wrong type or a number out of its bounds.
    """
    try:
        return model(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        field = model.model_fields.get(str(error.errors()[0]["loc"][0]))
        meaning = f" ({field.description})" if field is not None and field.description else ""
        raise DataError(format_error(error) + meaning) from error


TYPES = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "string": "text",
    "tuple": "a list of numbers",
}
BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def format_error(error: ValidationError) -> str:
    """The first thing that is wrong with a model's values, in words: its name, what it must be, and what it is."""
    first = error.errors(include_url=False)[0]
    kind, name, context = first["type"], ".".join(map(str, first["loc"])), first.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {name!r}"
    if kind == "missing":
        return f"the key {name!r} is missing"
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return f"{name} must be {words} {context[bound]}, not {first['input']!r}"
    if kind == "finite_number":
        return f"{name} must be finite, not {first['input']}"
    if kind == "literal_error":
        return f"{name} must be {context['expected']}, not {first['input']!r}"
    if kind.partition("_")[0] in TYPES:
        return f"{name} must be {TYPES[kind.partition('_')[0]]}, not {first['input']!r}"
    return f"{name} is {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"


class AttackOptions(OptionModel):
    """What a configuration says of an attack; each attack has a subclass of its own, `Options`.

    A subclass declares `poison: Literal["its-name"] = "its-name"`, the tag by which a configuration finds it, and a
    field for each option, see `option`.

    Attributes:
        poison: name under which the attack is registered.
    """

    poison: str

    @property
    def label_words(self) -> tuple[str, ...]:
        """Words that become classes of their own, beside those of the data; for texts only."""
        return ()

    def resolved(self, splits: Splits, seed: int) -> Self:
        """The same with every value that data or seed give.

        Args:
            splits: data that are poisoned.
            seed: of the run's random draws.

        Raises:
            DataError: the options do not fit the data.
        """
        return self

    @abstractmethod
    def build(self, splits: Splits, seed: int) -> Poison:
        """The attack with these options, which are resolved.

        Args:
            splits: data that are poisoned.
            seed: of the run's random draws.

        Raises:
            DataError: options that contradict each other, or that do not fit the data.
        """


class CraftOptions(OptionModel):
    """Settings of the crafting of an attack's perturbations; each attack that is crafted has a subclass, `Crafting`.

    Attributes:
        steps: of the optimiser, each over all poisoned samples.
        batch_size: poisoned samples on the device at a time.
    """

    steps: int
    batch_size: int
