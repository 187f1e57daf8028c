"""Rules of parameters that broadcast over the batch (class token, position embedding, scales and shifts).

They are substituted by a leaf [B · r, ...] in the forward pass, or in one operation of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

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


class BroadcastRule(Rule):
    """A weight that an operation broadcasts to all rows: the gradient is that of the leaf [B · r, ...] in its place."""

    names = ("weight",)

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        by_group = at_least_float32(io.gradient).unflatten(0, (io.groups, -1))  # [N, B · r / N, ...]
        return {"weight": by_group.sum(1).reshape(io.groups, *cast(Any, module).shapes["weight"])}
