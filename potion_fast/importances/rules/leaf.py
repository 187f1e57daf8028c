"""Rule of parameters [1, ...] that broadcast over the batch (class token, position embedding).

They are substituted by a leaf [B, ...] in the forward pass.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from typing_extensions import override

from .base import LayerIO, Rule, at_least_float32


class LeafRule(Rule):
    """The gradient of the leaf is the gradient per sample already."""

    names = ("leaf",)

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        by_group = at_least_float32(io.gradient).unflatten(0, (io.groups, -1))  # [N, B / N, ...]
        return {"leaf": by_group.sum(1).unsqueeze(1)}
