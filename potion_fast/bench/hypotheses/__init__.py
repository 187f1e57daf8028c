"""The two hypotheses of Pawelczyk et al., appendices A and E, on why unlearning fails on poison, each as a run."""

from .cosine import CosineConfig, cosine_run, format_cosine
from .model_shift import ShiftConfig, format_shift, shift_run

__all__ = ["CosineConfig", "ShiftConfig", "format_cosine", "cosine_run", "format_shift", "shift_run"]
