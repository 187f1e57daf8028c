"""From a configuration to a run folder: train a poisoned model, unlearn the poison, evaluate what is left."""

from .config import EvaluateConfig, TrainConfig, UnlearnConfig
from .export import export_run
from .preview import preview_run
from .scenario import Scenario
from .stages import evaluate_run, train_run, unlearn_run

__all__ = [
    "EvaluateConfig",
    "Scenario",
    "TrainConfig",
    "UnlearnConfig",
    "evaluate_run",
    "export_run",
    "preview_run",
    "train_run",
    "unlearn_run",
]
