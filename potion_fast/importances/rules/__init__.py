"""Rules, one per kind of layer: the gradient per group of samples from a layer's inputs and output gradient."""

from .base import Accumulators, LayerIO, Rule, at_least_float32
from .conv import ConvRule
from .embedding import EmbeddingRule
from .leaf import LeafRule
from .linear import LinearRule, TransposedLinearRule
from .norm import BatchNormRule, GroupNormRule, LayerNorm2dRule, LayerNormRule, LayerScaleRule, RMSNormRule
from .registry import RULES, register_rule, rule_for
from .tied import accumulate_tied

__all__ = [
    "LEAF",
    "RULES",
    "Accumulators",
    "BatchNormRule",
    "ConvRule",
    "EmbeddingRule",
    "GroupNormRule",
    "LayerIO",
    "LayerNorm2dRule",
    "LayerNormRule",
    "LayerScaleRule",
    "LeafRule",
    "LinearRule",
    "RMSNormRule",
    "Rule",
    "TransposedLinearRule",
    "accumulate_tied",
    "at_least_float32",
    "register_rule",
    "rule_for",
]

LEAF = LeafRule()
