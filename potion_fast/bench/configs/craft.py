"""What a crafting is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ...errors import DataError
from .defaults import CRAFT_DEFAULTS, CRAFT_OPTIMIZERS, CRAFT_OPTIONS
from .fields import Checked
from .machine import absolute_paths, resolved_device


@dataclass(frozen=True)
class CraftConfig(Checked):
    """Crafting the perturbations of a poison, against the model of a training without any of S_m.

    run                              folder of that training, which says what is poisoned and how
    root, data                       see `UnlearnConfig`
    steps, optimizer, lr, batch_size   see `gradient_matching` and `gradient_canceling`
    restarts, over                   of gradient matching
    shift                            of its augmentation, in pixels; None: its own; 0: no augmentation, no flips
    budget                           of gradient canceling: how far from the model its target parameters are, ε_w
    parameters, tolerance            of gradient canceling
    seed                             of all that is random; None: the training's
    """

    run: str
    root: str | None = None
    data: str | None = None
    steps: int | None = None
    optimizer: Literal["sign-adam", "adam", "descent"] | None = None
    lr: float | None = None
    batch_size: int | None = None
    restarts: int | None = None
    over: Literal["batch", "all"] | None = None
    shift: int | None = None
    budget: float | None = None
    parameters: Literal["all", "first"] | None = None
    tolerance: float | None = None
    seed: int | None = None
    device: str = "auto"
    workers: int = 0

    def resolved(self, poison: str) -> CraftConfig:
        """With absolute paths and the poison's defaults.

        Raises DataError for a poison that is not crafted, or an option that it has not, and ModelError.
        """
        if poison not in CRAFT_DEFAULTS:
            raise DataError(f"the poison {poison!r} is not crafted; that can be: {', '.join(CRAFT_DEFAULTS)}")
        others = [name for each, names in CRAFT_OPTIONS.items() if each != poison for name in names]
        if foreign := [name for name in others if getattr(self, name) is not None]:
            raise DataError(f"crafting {poison!r} takes no {', '.join(foreign)}")
        if self.optimizer not in (None, *CRAFT_OPTIMIZERS[poison]):
            raise DataError(f"crafting {poison!r} takes the optimizer {' or '.join(CRAFT_OPTIMIZERS[poison])}")
        defaults = CRAFT_DEFAULTS[poison]
        filled: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **filled, **absolute_paths(self), device=resolved_device(self.device))
