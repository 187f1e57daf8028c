"""The registry of attacks, by the names that configurations use.

An attack is one file: its class, decorated with `register_attack`, with its options as the nested class `Options`.
Configurations and flags take the options of whatever is registered (`attack_named(name).Options`, `shared_options`), so
that a new attack needs no line elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from ...errors import DataError
from ...user.schema import extra_of
from ...utils.did_you_mean import did_you_mean
from .options import OptionModel
from .poison import Poison

ATTACKS: dict[str, type[Poison]] = {}

Attack = TypeVar("Attack", bound=type[Poison])


def register_attack(name: str) -> Callable[[Attack], Attack]:
    """Class decorator: makes an attack known to configurations, to the command line and to reports.

    Args:
        name: what it is called there. Its `Options` have the field `poison: Literal[name] = name`.

    Returns:
        What is put above the class; the class comes back as it was, with `name` set.

    Raises:
        DataError: the name is another attack's already, or not the tag of the class's `Options`.
    """

    def register(attack: Attack) -> Attack:
        if name in ATTACKS:
            raise DataError(f"the attack {name!r} is registered already, as {ATTACKS[name].__qualname__}")
        tag = attack.Options.model_fields["poison"].default
        if tag != name:
            raise DataError(f"the attack {name!r} has options of {tag!r}: declare poison: Literal[{name!r}] = {name!r}")
        attack.name = name
        ATTACKS[name] = attack
        return attack

    return register


def attack_named(name: str) -> type[Poison]:
    """The registered attack of this name.

    Raises:
        DataError: there is none.
    """
    if name not in ATTACKS:
        raise DataError(
            f"unknown poison {name!r}; known: {', '.join(ATTACKS)}. "
            "One of your own is known once its module is imported"
            f"{did_you_mean(name, ATTACKS)}"
        )
    return ATTACKS[name]


@dataclass(frozen=True)
class SharedOption:
    """An option by its name in YAML, of all attacks that have it.

    Attributes:
        fields: by attack, its field: type, default, bounds, description.
    """

    fields: dict[str, FieldInfo]

    @property
    def help(self) -> str:
        """For --help: the attacks, and what it is to the first of them."""
        return f"{', '.join(self.fields)}: {next(iter(self.fields.values())).description}"

    @property
    def metavar(self) -> str | None:
        """The placeholder of the value in --help."""
        return next((text for field in self.fields.values() if (text := extra_of(field, "metavar"))), None)

    @property
    def default_text(self) -> str:
        """The default in words: once where it is the same for all attacks, else with each one's name."""
        texts = {name: extra_of(field, "default_text") or str(field.default) for name, field in self.fields.items()}
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return ", ".join(f"{name} {text}" for name, text in texts.items())


def shared_options() -> dict[str, SharedOption]:
    """All options of all registered attacks, by name."""
    return _shared({name: attack.Options for name, attack in ATTACKS.items()}, without=("poison",))


def shared_craft_options() -> dict[str, SharedOption]:
    """All settings of all craftings, by name."""
    return _shared({name: attack.Crafting for name, attack in ATTACKS.items() if attack.Crafting is not None})


def _shared(models: dict[str, type[OptionModel]], without: tuple[str, ...] = ()) -> dict[str, SharedOption]:
    fields: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        for key, field in model.model_fields.items():
            if key not in without:
                fields.setdefault(key, {})[name] = field
    return {key: SharedOption(by_attack) for key, by_attack in fields.items()}
