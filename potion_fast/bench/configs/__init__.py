"""Configurations of runs: fields with types, bounds, units and help texts, from Python, YAML or flags alike."""

from ...user.device import resolved_device
from .craft import CraftConfig
from .defaults import DATA_DEFAULTS
from .evaluate import EvaluateConfig
from .heal import HealConfig
from .train import TrainConfig
from .unlearn import UnlearnConfig

__all__ = [
    "DATA_DEFAULTS",
    "CraftConfig",
    "EvaluateConfig",
    "HealConfig",
    "TrainConfig",
    "UnlearnConfig",
    "resolved_device",
]
