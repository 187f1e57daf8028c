"""One rule per kind of layer, found by the layer's exact type: a subclass may compute anything."""

from __future__ import annotations

from torch import nn

from ...distributed.fsdp import kind_of
from .base import Rule, Sums, Use, at_least_float32
from .conv import ConvRule
from .embedding import EmbeddingRule
from .leaf import LeafRule
from .linear import LinearRule, TransposedLinearRule
from .norm import BatchNormRule, GroupNormRule, LayerNorm2dRule, LayerNormRule, LayerScaleRule, RMSNormRule
from .tied import accumulate_tied

__all__ = ["LEAF", "RULES", "Rule", "Sums", "Use", "accumulate_tied", "at_least_float32", "rule_for"]

LEAF = LeafRule()

# Types of other libraries go by their names, so that nothing of those is imported.
RULES: dict[type[nn.Module] | str, Rule] = {
    nn.Linear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.RMSNorm: RMSNormRule(),
    nn.GroupNorm: GroupNormRule(),
    nn.BatchNorm1d: BatchNormRule(),
    nn.BatchNorm2d: BatchNormRule(),
    nn.BatchNorm3d: BatchNormRule(),
    nn.Embedding: EmbeddingRule(),
    "timm.layers.layer_scale.LayerScale": LayerScaleRule(),
    "timm.layers.norm.LayerNorm": LayerNormRule(),
    "timm.layers.norm.LayerNorm2d": LayerNorm2dRule(),
    "torchvision.models.convnext.LayerNorm2d": LayerNorm2dRule(),
    "transformers.pytorch_utils.Conv1D": TransposedLinearRule(),
}


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a layer; None where there is none, or where the layer's settings are beyond it."""
    kind = kind_of(module)
    rule = RULES.get(kind) or RULES.get(f"{kind.__module__}.{kind.__qualname__}")
    changed = "forward" in vars(module)  # replaced on this one object
    own = {name for name, parameter in module._parameters.items() if parameter is not None}
    return rule if rule and not changed and own <= set(rule.names) and rule.covers(module) else None
