"""What a run is told. An unknown key or a wrong value is an error; what is left None is resolved before it starts."""

from .craft import CraftConfig
from .defaults import DATA_DEFAULTS, POISON_OPTIONS
from .evaluate import EvaluateConfig
from .files import Config, data_part, from_dict, to_dict
from .machine import resolved_device
from .train import TrainConfig
from .unlearn import UnlearnConfig

__all__ = [
    "DATA_DEFAULTS",
    "POISON_OPTIONS",
    "Config",
    "CraftConfig",
    "EvaluateConfig",
    "TrainConfig",
    "UnlearnConfig",
    "data_part",
    "from_dict",
    "resolved_device",
    "to_dict",
]
