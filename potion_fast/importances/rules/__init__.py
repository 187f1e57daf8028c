"""Rules, one per kind of layer: the gradient per group of samples from a layer's inputs and output gradient."""

from .base import Accumulators, LayerIO, Rule, at_least_float32
from .conv import ConvRule, ConvTransposeRule
from .embedding import EmbeddingRule
from .leaf import BroadcastRule, LeafRule
from .linear import LeftProductRule, LinearRule, TransposedLinearRule, VectorProductRule
from .norm import (
    BatchNormRule,
    GroupNormRule,
    LayerNorm2dRule,
    LayerNormRule,
    LayerScaleRule,
    PReLURule,
    RMSNormRule,
)
from .registry import RULES, register_rule, rule_for
from .tied import accumulate_tied

__all__ = [
    "LEAF",
    "RULES",
    "Accumulators",
    "BatchNormRule",
    "BroadcastRule",
    "ConvRule",
    "ConvTransposeRule",
    "EmbeddingRule",
    "GroupNormRule",
    "LayerIO",
    "LayerNorm2dRule",
    "LayerNormRule",
    "LayerScaleRule",
    "LeafRule",
    "LeftProductRule",
    "LinearRule",
    "PReLURule",
    "RMSNormRule",
    "Rule",
    "TransposedLinearRule",
    "VectorProductRule",
    "accumulate_tied",
    "at_least_float32",
    "register_rule",
    "rule_for",
]

LEAF = LeafRule()
