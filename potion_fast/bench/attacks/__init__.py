"""Attacks on the training data: whom they poison, what becomes of an image, which labels are given."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...errors import DataError
from .badnet import BadNet
from .gaussian import Gaussian
from .gradient_canceling import GradientCanceling
from .gradient_matching import GradientMatching
from .interclass_swap import InterclassSwap
from .moving_trigger import MovingTrigger
from .perturbation import Perturbation, Perturbations
from .poison import Poison, Swap
from .random_swap import RandomSwap
from .selection import choose_poisoned
from .sine_wave import SineWave
from .trigger_word import TriggerWord

POISONS: dict[str, type[Poison]] = {
    "badnet": BadNet,
    "sine-wave": SineWave,
    "moving-trigger": MovingTrigger,
    "interclass-swap": InterclassSwap,
    "random-swap": RandomSwap,
    "gaussian": Gaussian,
    "gradient-matching": GradientMatching,
    "gradient-canceling": GradientCanceling,
    "trigger-word": TriggerWord,
}


def options_of(name: str) -> list[str]:
    """Names of a poison's options. Raises DataError for an unknown poison."""
    if name not in POISONS:
        raise DataError(f"unknown poison {name!r}; known: {', '.join(POISONS)}")
    return [field.name for field in fields(POISONS[name])]  # type: ignore[arg-type]  # each one is a dataclass


def make_poison(name: str, **options: Any) -> Poison:
    """A poison by its registered name. Raises DataError for an unknown name, option or value."""
    known = options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DataError(f"the poison {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return POISONS[name](**options)
    except TypeError as error:
        raise DataError(f"the poison {name!r} cannot be made with {options}: {error}") from error


__all__ = [
    "POISONS",
    "BadNet",
    "Gaussian",
    "GradientCanceling",
    "GradientMatching",
    "InterclassSwap",
    "MovingTrigger",
    "Perturbation",
    "Perturbations",
    "Poison",
    "RandomSwap",
    "SineWave",
    "Swap",
    "TriggerWord",
    "choose_poisoned",
    "make_poison",
    "options_of",
]
