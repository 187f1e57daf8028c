"""What a run is told. An unknown key or a wrong value is an error; what is left None is resolved before it starts."""

from .configs.craft import CraftConfig
from .configs.evaluate import EvaluateConfig
from .configs.files import Config, data_part, from_dict, to_dict
from .configs.machine import resolved_device
from .configs.train import TrainConfig
from .configs.unlearn import UnlearnConfig
from .defaults import DATA_DEFAULTS, POISON_OPTIONS

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
