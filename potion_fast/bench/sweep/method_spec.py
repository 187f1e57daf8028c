"""A method of a sweep: an unlearner with its settings, and the scenarios that it is used in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ...errors import PotionError
from ..unlearners import make_unlearner, unlearner_class
from ..unlearners.dampening import Dampening
from ..unlearners.ptn import PTN
from .config import Size, listed


@dataclass(frozen=True)
class MethodSpec:
    """An unlearner with its settings, and the scenarios that it is used in.

    Attributes:
        name: of the unlearner.
        settings: of it.
        budget: gradient steps, as a share of the training's iterations; None: what the settings say.
        poisoned, found: only for these |S_m| and |S_f|; None: for all.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: float | None = None
    poisoned: tuple[int, ...] | None = None
    found: tuple[Size, ...] | None = None

    @classmethod
    def each(cls, entry: object) -> list[MethodSpec]:
        """From a name, or a mapping with the name as `method` among the settings: one for every share in `budget`.

        Raises:
            PotionError: no such unlearner or setting, or a wrong value.
        """
        settings: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"method": entry}
        name = settings.pop("method", None)
        if not isinstance(name, str):
            raise PotionError(f"a method is the name of an unlearner, or a mapping with `method: NAME`, not {entry!r}")
        if odd := [key for key in settings if not isinstance(key, str) or key == "name"]:
            raise PotionError(f"the method {name!r} has no setting {odd[0]!r}")
        only = {axis: tuple(listed(axis, settings.pop(axis))) for axis in ("poisoned", "found") if axis in settings}
        budget = settings.pop("budget", None)
        make_unlearner(name, **settings)
        budgets = budget if isinstance(budget, (list, tuple)) else [budget]
        return [cls(name, settings, _share(share), **only) for share in listed("budget", budgets)]

    @property
    def label(self) -> str:
        """The name with the settings, for a file name."""
        settings = self.settings if self.budget is None else {**self.settings, "budget": self.budget}
        lists = {key: value if isinstance(value, list) else [value] for key, value in settings.items()}
        text = "-".join([self.name, *(f"{key}={'+'.join(map(str, values))}" for key, values in lists.items())])
        return "".join(letter if letter.isalnum() or letter in "-_.=+" else "-" for letter in text)

    @property
    def objective(self) -> str | None:
        """Of its importances; None for a method that takes none."""
        kind = unlearner_class(self.name)
        return kind.objective if issubclass(kind, Dampening) else None

    @property
    def searches(self) -> bool:
        """Whether it searches with PTN."""
        return issubclass(unlearner_class(self.name), PTN)

    def limits(self, iterations: int) -> dict[str, int]:
        """The budget as the unlearner's setting, in gradient steps: whole ones, as 0.29 of 100 is 29, at least one."""
        return {} if self.budget is None else {"budget": max(1, int(Fraction(str(self.budget)) * iterations))}

    def check(self, iterations: int) -> None:
        """Raise PotionError for a budget that the unlearner does not know, or that is too small for it."""
        make_unlearner(self.name, **self.settings, **self.limits(iterations))


def _share(budget: object) -> float | None:
    """Raises PotionError unless it is a share in (0, 1], or None."""
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise PotionError(f"budget holds shares of the training's iterations in (0, 1], as 0.1, not {budget!r}")
    return budget
