"""Attacks on the training data: what a trigger looks like and who carries it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol

import torch

from ..errors import DataError
from .badnet import BadNet
from .selection import choose_poisoned


class Poison(Protocol):
    """Writes a trigger into normalised images; a poisoned training sample also gets the label `target`."""

    @property
    def target(self) -> int: ...

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> a triggered copy."""


POISONS = {"badnet": BadNet}


def make_poison(name: str, **options: Any) -> Poison:
    """A poison by its registered name. Raises DataError for an unknown name, option or value."""
    if name not in POISONS:
        raise DataError(f"unknown poison {name!r}; known: {', '.join(POISONS)}")
    poison = POISONS[name]
    known = [field.name for field in fields(poison)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DataError(f"the poison {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return poison(**options)
    except TypeError as error:
        raise DataError(f"the poison {name!r} cannot be made with {options}: {error}") from error


__all__ = ["POISONS", "BadNet", "Poison", "choose_poisoned", "make_poison"]
