"""Options of attacks: the base of each attack's own model."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...user.schema import Schema, setting

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits
    from .poison import Poison


option = setting  # declares a field of an `AttackOptions` or a `CraftOptions`


class OptionModel(Schema):
    """A frozen set of options: an unknown name, a wrong type or a number out of its bounds is a DataError."""

    error_type = DataError

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML, without those that are None."""
        return {name: value for name, value in super().to_dict().items() if value is not None}


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
        """Words that become classes of their own, in addition to those of the data; for texts only."""
        return ()

    def check_complete(self) -> None:
        """Check what neither the attack nor the data set has a default for, before the data are read.

        Raises:
            DataError: an option must be given.
        """
        return

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
