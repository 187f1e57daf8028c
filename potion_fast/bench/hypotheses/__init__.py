"""Why unlearning fails on poison: the two hypotheses of paper B, appendices A and E, each as a run of its own."""

from .cosine import CosineConfig, cosine_run, format_cosine
from .model_shift import ShiftConfig, format_shift, shift_run

__all__ = ["CosineConfig", "ShiftConfig", "format_cosine", "cosine_run", "format_shift", "shift_run"]
