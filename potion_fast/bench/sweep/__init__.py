"""A grid of scenarios from a YAML file: trainings, passes and unlearnings that share what they can."""

from .config import SweepConfig, load_sweep, presets
from .estimate import in_words
from .plan import Plan, plan
from .run import plan_sweep, run_sweep

__all__ = ["Plan", "SweepConfig", "in_words", "load_sweep", "plan", "plan_sweep", "presets", "run_sweep"]
