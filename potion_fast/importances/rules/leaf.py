"""Parameters [1, ...] that broadcast over the batch (class token, position embedding): a leaf [B, ...] stands in."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from .base import Rule, Use, at_least_float32


class LeafRule(Rule):
    """The gradient of the leaf is the gradient per sample already."""

    names = ("leaf",)

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        by_group = at_least_float32(use.gradient).unflatten(0, (use.groups, -1))  # [N, B / N, ...]
        return {"leaf": by_group.sum(1).unsqueeze(1)}
