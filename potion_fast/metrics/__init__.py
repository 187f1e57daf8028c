"""What a model predicts, and how much poison and how much use is left in it."""

from .predictions import predict
from .scores import (
    Metric,
    PoisonEvaluation,
    accuracy,
    attack_success_rate,
    evaluate_poison,
    model_damage,
    poison_healed,
)
from .swaps import SwapEvaluation, evaluate_swap

__all__ = [
    "Metric",
    "PoisonEvaluation",
    "SwapEvaluation",
    "accuracy",
    "attack_success_rate",
    "evaluate_poison",
    "evaluate_swap",
    "model_damage",
    "poison_healed",
    "predict",
]
