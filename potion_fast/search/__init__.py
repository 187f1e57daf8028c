"""PTN: the search for the edit at which the trigger dies, before the model suffers (*Potion*, algorithm 1)."""

from ..edits.ranked import RankedPlan
from .options import S_STEP, SearchKeywords, SearchOptions, search_options
from .ptn import BLOCK, ptn_search
from .result import (
    DAMAGE_LIMIT,
    NOT_LEARNT,
    OUT_OF_STEPS,
    SATURATED,
    THRESHOLD_PASSED,
    CleanAccuracy,
    Result,
    Step,
)
from .ssd import Grid, Setting, ssd_grid
from .strategies import STRATEGIES, Candidates, Score, Strategy, Trial, register_strategy

__all__ = [
    "BLOCK",
    "Candidates",
    "CleanAccuracy",
    "DAMAGE_LIMIT",
    "Grid",
    "NOT_LEARNT",
    "OUT_OF_STEPS",
    "RankedPlan",
    "Result",
    "SATURATED",
    "STRATEGIES",
    "S_STEP",
    "Score",
    "SearchKeywords",
    "SearchOptions",
    "Setting",
    "Step",
    "Strategy",
    "THRESHOLD_PASSED",
    "Trial",
    "ptn_search",
    "register_strategy",
    "search_options",
    "ssd_grid",
]
