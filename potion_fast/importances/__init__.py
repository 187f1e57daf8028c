"""Importances of parameters to a set of samples: objectives, the pass over the data, its result."""

from .objectives import OBJECTIVES, Objective, register_objective
from .options import PassKeywords, PassOptions
from .passes import importance
from .result import Importance
from .rules import register_rule

__all__ = [
    "OBJECTIVES",
    "Importance",
    "Objective",
    "PassKeywords",
    "PassOptions",
    "importance",
    "register_objective",
    "register_rule",
]
