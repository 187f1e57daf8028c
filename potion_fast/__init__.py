"""Remove poison from trained models: importance → thresholds → edits → search.

The public names below stand in the order in which data goes through them.
"""

# isort: off
from .importances import Importance, Objective, PassOptions, importance, register_objective
from .percentiles import thresholds
from .edits.plan import EditPlan
from .search import Grid, Result, SearchOptions, Setting, Step, ptn_search, ssd_grid
from .unlearning import unlearn
from .errors import PotionError, PotionWarning

# isort: on

__version__ = "0.1.0"

__all__ = [
    "Importance",
    "Objective",
    "PassOptions",
    "importance",
    "register_objective",
    "thresholds",
    "EditPlan",
    "SearchOptions",
    "Result",
    "Step",
    "ptn_search",
    "Grid",
    "Setting",
    "ssd_grid",
    "unlearn",
    "PotionError",
    "PotionWarning",
]
