"""Why unlearning fails on poison: the two hypotheses of paper B, appendices A and E, each as a run of its own."""

from .cosine import CosineConfig, cosine_in_words, cosine_run
from .model_shift import ShiftConfig, shift_in_words, shift_run

__all__ = ["CosineConfig", "ShiftConfig", "cosine_in_words", "cosine_run", "shift_in_words", "shift_run"]
