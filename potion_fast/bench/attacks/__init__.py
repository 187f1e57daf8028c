"""Attacks on the training data: whom they poison, what becomes of an image, which labels are given.

Every module of this package is imported with it, so that an attack is registered by its file alone.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .all_to_all import AllToAll
from .badnet import BadNet
from .blended import Blended
from .evaluation import NO_LABEL, Attacked, Captions, EvaluationInputs, Scores
from .gaussian import Gaussian
from .gradient_canceling import GradientCanceling
from .gradient_matching import GradientMatching
from .interclass_swap import InterclassSwap
from .kinds import KINDS, LEARNT, SEEN, Indiscriminate, Noise, Swap, Targeted, Trigger
from .moving_trigger import MovingTrigger
from .options import AttackOptions, CraftOptions, option
from .perturbation import Perturbation, Perturbations
from .poison import Poison
from .random_swap import RandomSwap
from .registry import (
    ATTACKS,
    attack_named,
    register_attack,
    shared_craft_options,
    shared_options,
)
from .sample_specific import SampleSpecific
from .selection import choose_poisoned
from .several_targets import SeveralTargets
from .sig import SIG
from .sine_wave import SineWave
from .trigger_word import TriggerWord
from .wanet import WaNet

for module in iter_modules(__path__):
    if not module.ispkg:
        import_module(f"{__name__}.{module.name}")

__all__ = [
    "ATTACKS",
    "AllToAll",
    "Attacked",
    "AttackOptions",
    "BadNet",
    "Blended",
    "Captions",
    "CraftOptions",
    "EvaluationInputs",
    "Gaussian",
    "GradientCanceling",
    "GradientMatching",
    "Indiscriminate",
    "InterclassSwap",
    "KINDS",
    "LEARNT",
    "MovingTrigger",
    "NO_LABEL",
    "Noise",
    "Perturbation",
    "Perturbations",
    "Poison",
    "RandomSwap",
    "Scores",
    "SEEN",
    "SIG",
    "SampleSpecific",
    "SeveralTargets",
    "SineWave",
    "Swap",
    "Targeted",
    "Trigger",
    "TriggerWord",
    "WaNet",
    "attack_named",
    "choose_poisoned",
    "option",
    "register_attack",
    "shared_craft_options",
    "shared_options",
]
