"""Unlearners: methods that make a model forget the poisoned samples that were found, by name.

Each module holds a method and registers it; all modules of this package are imported with it.
"""

from importlib import import_module
from pkgutil import iter_modules

from .base import Loaders, TrainingIndex, Unlearned, Unlearner
from .registry import UNLEARNERS, make_unlearner, register_unlearner, unlearner_class

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "UNLEARNERS",
    "Loaders",
    "TrainingIndex",
    "Unlearned",
    "Unlearner",
    "make_unlearner",
    "register_unlearner",
    "unlearner_class",
]
