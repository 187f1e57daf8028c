"""Configuration of the crafting of perturbations."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator
from pydantic.fields import FieldInfo
from typing_extensions import override

from ...errors import DataError, PotionError
from ...user.device import resolved_device
from ...user.schema import Schema, setting
from ...user.shared_fields import device_field, seed_field, workers_field
from ..attacks import ATTACKS, CraftOptions, attack_named, shared_craft_options
from .options import flag_of, refuse_foreign
from .shared import same_data_field, same_model_field, same_root_field


class CraftConfig(Schema):
    """Crafting the perturbations of an attack, against the model of a training without any of S_m.

    The settings of the crafting are keys among the others, in YAML as in Python and on the command line:
    `CraftConfig(run="runs/without", steps=100)`. Which attack is crafted, and so which of them there are, says the
    training.

    Attributes:
        settings: those that were given; of a resolved configuration all that the attack's `Crafting` has.
    """

    run: str = setting(..., "folder of a training with --leave-out-poisoned", metavar="DIR")
    root: str | None = same_root_field()
    data: str | None = same_data_field()
    model: str | None = same_model_field()
    settings: dict[str, Any] = setting({}, "settings of the crafting", flag=False)
    seed: int | None = seed_field(None, default_text="the training's")
    device: str = device_field()
    workers: int = workers_field()

    @model_validator(mode="before")
    @classmethod
    def _with_settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The keys that are no fields become settings; each is right for one attack at least."""
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        settings = {name: value for name, value in values.items() if name not in own and value is not None}
        known = shared_craft_options()
        unknown = [name for name in values if name not in own and name not in known]
        if unknown:
            cls.refuse_key(unknown[0])
        for name, value in settings.items():
            _check_alone(name, value, list(known[name].fields))
        if settings:
            own["settings"] = {**own.get("settings", {}), **settings}
        return own

    @override
    @classmethod
    def flag_fields(cls) -> dict[str, FieldInfo]:
        """The fields of the command line: the settings of all attacks first."""
        return {
            **{name: flag_of(option) for name, option in shared_craft_options().items()},
            **super().flag_fields(),
        }

    @override
    @classmethod
    def keys(cls) -> list[str]:
        """The keys that a file may have: fields, and the settings of all attacks."""
        return [name for name in cls.model_fields if name != "settings"] + list(shared_craft_options())

    @override
    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML, the settings among them."""
        plain: dict[str, Any] = {}
        for name, value in super().to_dict().items():
            plain |= value if name == "settings" else {name: value}
        return plain

    def crafting(self, poison: str) -> CraftOptions:
        """The settings as the model that the attack is registered with.

        Args:
            poison: name of the attack.

        Raises:
            DataError: an attack that is not crafted, or a setting that it does not have.
        """
        kind = attack_named(poison).Crafting
        if kind is None:
            crafted = ", ".join(name for name, attack in ATTACKS.items() if attack.Crafting is not None)
            raise DataError(f"the poison {poison!r} is not crafted; that can be: {crafted}")
        refuse_foreign(f"crafting {poison!r} takes no", self.settings, kind)
        try:
            return kind(**self.settings)
        except PotionError as error:
            raise DataError(f"crafting {poison!r}: {error}") from error

    def resolved(self, poison: str) -> CraftConfig:
        """The same with absolute paths, a device and the attack's defaults.

        Args:
            poison: name of the attack.

        Raises:
            DataError: an attack that is not crafted, or a setting that it does not have.
            ModelError: the device is not there.
        """
        return self.updated(
            **self.absolute_paths(),
            settings=self.crafting(poison).to_dict(),
            device=resolved_device(self.device),
        )


def _check_alone(name: str, value: Any, attacks: list[str]) -> None:
    """Raise PotionError for a setting whose value is wrong for each of these attacks."""
    for attack in attacks:
        kind = ATTACKS[attack].Crafting
        assert kind is not None
        try:
            kind(**{name: value})
            return
        except PotionError as error:
            refused = error
    raise refused
