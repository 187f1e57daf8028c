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

__all__ = [
    "Metric",
    "PoisonEvaluation",
    "accuracy",
    "attack_success_rate",
    "evaluate_poison",
    "model_damage",
    "poison_healed",
    "predict",
]
