"""Layers that scale and shift: y = γ x̂ + β. ∂ℓ/∂γ of a group is Σ_t g_t x̂_t, ∂ℓ/∂β is Σ_t g_t."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import ops
from .base import Rule, Use, at_least_float32, grouped


class LayerNormRule(Rule):
    """nn.LayerNorm, over the last dimensions of inputs [B · r, ..., *shape]."""

    names: ClassVar[tuple[str, ...]] = ("weight", "bias")
    centred = True

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.LayerNorm, module)
        shape = layer.normalized_shape
        eps = torch.finfo(use.inputs.dtype).eps if layer.eps is None else layer.eps
        x, g = (at_least_float32(t).reshape(use.groups, -1, torch.Size(shape).numel()) for t in use[:2])  # [N, T, d]
        scale, shift = ops.row_sums(x, g, eps, self.centred)  # [N, d]
        found = {"weight": scale, "bias": shift}
        return {name: found[name].unflatten(1, shape) for name in names}


class RMSNormRule(LayerNormRule):
    """nn.RMSNorm."""

    names = ("weight",)
    centred = False


class LayerNorm2dRule(LayerNormRule):
    """LayerNorm over the channels of images [B · r, C, H, W] (timm, torchvision)."""

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        return super().gradients(module, Use(use.inputs.movedim(1, -1), use.gradient.movedim(1, -1), use.groups), names)


class GroupNormRule(Rule):
    """nn.GroupNorm, of inputs [B · r, C, ...]."""

    names = ("weight", "bias")

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.GroupNorm, module)
        normalised = F.group_norm(at_least_float32(use.inputs), layer.num_groups, eps=layer.eps)
        return channel_gradients(normalised, normalised.new_zeros(layer.num_channels), use, names)


class BatchNormRule(Rule):
    """nn.BatchNorm1d, 2d and 3d with running statistics, of inputs [B · r, C, ...]."""

    names = ("weight", "bias")

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.BatchNorm2d, module)
        assert layer.running_mean is not None and layer.running_var is not None  # else samples mix
        inputs = at_least_float32(use.inputs)
        found = channel_gradients(inputs, layer.running_mean.to(inputs.dtype), use, names)
        if "weight" in found:
            found["weight"] /= (layer.running_var.to(inputs.dtype) + layer.eps).sqrt()
        return found


def channel_gradients(inputs: Tensor, mean: Tensor, use: Use, names: Collection[str]) -> dict[str, Tensor]:
    """Σ g (x − mean) as "weight" and Σ g as "bias", each [N, C], of inputs x [B · r, C, ...]."""
    scale, shift = ops.channel_sums(inputs, at_least_float32(use.gradient), mean)  # [B · r, C]
    found = {"weight": scale, "bias": shift}
    return {name: found[name].unflatten(0, (use.groups, -1)).sum(1) for name in names}


class LayerScaleRule(Rule):
    """LayerScale of timm: y = γ x, over the last dimension."""

    names = ("gamma",)

    def covers(self, module: nn.Module) -> bool:
        return not module.inplace

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        x, g = at_least_float32(use.inputs), at_least_float32(use.gradient)
        return {"gamma": grouped(g * x, use.groups).sum(1)}
