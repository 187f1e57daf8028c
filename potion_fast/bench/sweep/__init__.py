"""A grid of scenarios from a YAML file: trainings, passes and unlearnings that share what they can."""

from .config import SweepConfig, load_sweep, presets
from .estimate import format_estimate
from .plan import SweepPlan, make_plan
from .run import plan_sweep, run_sweep

__all__ = [
    "SweepPlan",
    "SweepConfig",
    "format_estimate",
    "load_sweep",
    "make_plan",
    "plan_sweep",
    "presets",
    "run_sweep",
]
