"""Defences that know clean samples and no poison."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from ...errors import PotionError
from ..training.schedules import Schedule
from .base import Loaders
from .epochs import EpochFinetuning


def clean_samples(loaders: Loaders, name: str) -> Iterable[Any]:
    """The clean samples that a defence trains on.

    Args:
        loaders: the data.
        name: of the method, for the error.

    Raises:
        PotionError: there are none.
    """
    if loaders.clean is None:
        raise PotionError(f"{name} trains on clean samples: Loaders(clean=...), or clean_samples of a sweep")
    return loaders.clean


class CleanFinetuning(EpochFinetuning):
    """A training on the clean samples alone; S_f and the rest of the training data are not read."""

    lr: PositiveFloat = 0.01
    schedule: Schedule = "constant"
    epochs: PositiveInt = 100
