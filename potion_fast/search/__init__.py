"""PTN: the search for the edit at which the trigger dies, before the model suffers (paper A, algorithm 1)."""

from ..edits.ranked import RankedPlan
from .ptn import BLOCK, S_STEP, STRATEGIES, check_options, ptn_search
from .result import NOT_LEARNT, OUT_OF_STEPS, SATURATED, THRESHOLD_PASSED, Result, Step
from .ssd import Grid, Setting, ssd_grid
from .strategies import Candidates, Score, Trial, batched, bisect, minimal, sequential

__all__ = [
    "BLOCK",
    "Candidates",
    "Grid",
    "NOT_LEARNT",
    "OUT_OF_STEPS",
    "RankedPlan",
    "Result",
    "SATURATED",
    "S_STEP",
    "STRATEGIES",
    "Score",
    "Setting",
    "Step",
    "THRESHOLD_PASSED",
    "Trial",
    "batched",
    "bisect",
    "check_options",
    "minimal",
    "ptn_search",
    "sequential",
    "ssd_grid",
]
