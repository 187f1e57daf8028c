"""Runs from a configuration to a run folder: crafting, training, unlearning, evaluation, preview and export."""

from ..configs import CraftConfig, EvaluateConfig, HealConfig, TrainConfig, UnlearnConfig
from .craft import craft_run
from .export import export_run
from .find import find_run
from .heal import heal_run
from .preview import preview_run
from .scenario import Scenario
from .stages import evaluate_run, train_run, unlearn_run

__all__ = [
    "CraftConfig",
    "EvaluateConfig",
    "HealConfig",
    "Scenario",
    "TrainConfig",
    "UnlearnConfig",
    "craft_run",
    "evaluate_run",
    "export_run",
    "find_run",
    "heal_run",
    "preview_run",
    "train_run",
    "unlearn_run",
]
