"""How much each parameter matters to a set of samples: the objectives, the pass over the data, what is stored."""

from .objectives import OBJECTIVES, Objective, register_objective
from .options import PassKeywords, PassOptions
from .passes import importance
from .result import Importance

__all__ = ["OBJECTIVES", "Importance", "Objective", "PassKeywords", "PassOptions", "importance", "register_objective"]
