"""Metrics of a poisoned or healed model, for each kind of attack."""

from ...utils.predict import accuracy, predict
from .detection import gaussian_trade_off, gaussian_true_positive_rate, quantiles, trade_off, true_positive_rate
from .gaussian import GaussianEvaluation, GaussianScore, evaluate_gaussian, gaussian_unlearning_score
from .indiscriminate import IndiscriminateEvaluation, evaluate_indiscriminate
from .scores import (
    Evaluation,
    Metric,
    PoisonEvaluation,
    attack_success_rate,
    defense_effectiveness,
    evaluate_poison,
    model_damage,
    poison_healed,
    poison_removed,
    robust_accuracy,
)
from .swaps import SwapEvaluation, evaluate_swap
from .targets import TargetEvaluation, evaluate_targets

__all__ = [
    "Evaluation",
    "GaussianEvaluation",
    "GaussianScore",
    "IndiscriminateEvaluation",
    "Metric",
    "PoisonEvaluation",
    "SwapEvaluation",
    "TargetEvaluation",
    "accuracy",
    "attack_success_rate",
    "defense_effectiveness",
    "evaluate_gaussian",
    "evaluate_indiscriminate",
    "evaluate_poison",
    "evaluate_swap",
    "evaluate_targets",
    "gaussian_trade_off",
    "gaussian_true_positive_rate",
    "gaussian_unlearning_score",
    "model_damage",
    "poison_healed",
    "poison_removed",
    "predict",
    "quantiles",
    "robust_accuracy",
    "trade_off",
    "true_positive_rate",
]
