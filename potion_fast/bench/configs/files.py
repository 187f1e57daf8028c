"""Configurations as the plain values of a YAML file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, TypeVar

from ...errors import PotionError
from .craft import CraftConfig
from .defaults import DATA_FIELDS, LEFT_OUT
from .evaluate import EvaluateConfig
from .train import TrainConfig
from .unlearn import UnlearnConfig

AnyConfig = TrainConfig | UnlearnConfig | EvaluateConfig | CraftConfig
Config = TypeVar("Config", TrainConfig, UnlearnConfig, EvaluateConfig, CraftConfig)


def to_dict(config: AnyConfig) -> dict[str, Any]:
    """Plain values for YAML, without the options that belong to other poisons."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
        if value is not None or name not in LEFT_OUT
    }


def data_part(config: TrainConfig) -> dict[str, Any]:
    """The part of `to_dict` that says what the poisoned data are."""
    return {name: value for name, value in to_dict(config).items() if name in DATA_FIELDS}


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from what `to_dict` gave. Raises PotionError for an unknown or missing key or a wrong value."""
    known = {field.name: field for field in fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise PotionError(f"unknown key {unknown[0]!r} in the configuration; known: {', '.join(known)}")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in values]:
        raise PotionError(f"the configuration lacks the key {missing[0]!r}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return kind(**given)
