"""Rules of layers that scale and shift: y = γ x̂ + β. ∂ℓ/∂γ of a group is Σ_t g_t x̂_t, ∂ℓ/∂β is Σ_t g_t."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ... import ops
from .base import LayerIO, Rule, at_least_float32, grouped
from .registry import register_rule


@register_rule(nn.LayerNorm, "timm.layers.norm.LayerNorm")
class LayerNormRule(Rule):
    """nn.LayerNorm, over the last dimensions of inputs [B · r, ..., *shape]."""

    names: ClassVar[tuple[str, ...]] = ("weight", "bias")
    centred = True

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.LayerNorm, module)
        shape = layer.normalized_shape
        eps = torch.finfo(io.inputs.dtype).eps if layer.eps is None else layer.eps
        x, g = (  # [N, T, d]
            at_least_float32(tensor).reshape(io.groups, -1, torch.Size(shape).numel())
            for tensor in (io.inputs, io.gradient)
        )
        scale, shift = ops.row_sums(x, g, eps, self.centred)  # [N, d]
        gradients = {"weight": scale, "bias": shift}
        return {name: gradients[name].unflatten(1, shape) for name in names}


@register_rule(nn.RMSNorm)
class RMSNormRule(LayerNormRule):
    """nn.RMSNorm."""

    names = ("weight",)
    centred = False


@register_rule("timm.layers.norm.LayerNorm2d", "torchvision.models.convnext.LayerNorm2d")
class LayerNorm2dRule(LayerNormRule):
    """LayerNorm over the channels of images [B · r, C, H, W] (timm, torchvision)."""

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        channels_last = LayerIO(io.inputs.movedim(1, -1), io.gradient.movedim(1, -1), io.groups)
        return super().gradients(module, channels_last, names)


@register_rule(nn.GroupNorm)
class GroupNormRule(Rule):
    """nn.GroupNorm, of inputs [B · r, C, ...]."""

    names = ("weight", "bias")

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.GroupNorm, module)
        normalised = F.group_norm(at_least_float32(io.inputs), layer.num_groups, eps=layer.eps)
        return channel_gradients(normalised, normalised.new_zeros(layer.num_channels), io, names)


@register_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
class BatchNormRule(Rule):
    """nn.BatchNorm1d, 2d and 3d with running statistics, of inputs [B · r, C, ...]."""

    names = ("weight", "bias")

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.BatchNorm2d, module)
        assert layer.running_mean is not None and layer.running_var is not None  # else samples mix
        inputs = at_least_float32(io.inputs)
        gradients = channel_gradients(inputs, layer.running_mean.to(inputs.dtype), io, names)
        if "weight" in gradients:
            gradients["weight"] /= (layer.running_var.to(inputs.dtype) + layer.eps).sqrt()
        return gradients


def channel_gradients(inputs: Tensor, mean: Tensor, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
    """Σ g (x − mean) as "weight" and Σ g as "bias", each [N, C].

    Args:
        inputs: x [B · r, C, ...].
        mean: [C].
        io: The layer's call.
        names: Those of "weight" and "bias" that are wanted.
    """
    scale, shift = ops.channel_sums(inputs, at_least_float32(io.gradient), mean)  # [B · r, C]
    sums = {"weight": scale, "bias": shift}
    return {name: sums[name].unflatten(0, (io.groups, -1)).sum(1) for name in names}


@register_rule("timm.layers.layer_scale.LayerScale")
class LayerScaleRule(Rule):
    """LayerScale of timm: y = γ x, over the last dimension."""

    names = ("gamma",)

    @override
    def covers(self, module: nn.Module) -> bool:
        return not module.inplace

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        x, g = at_least_float32(io.inputs), at_least_float32(io.gradient)
        return {"gamma": grouped(g * x, io.groups).sum(1)}


class PReLURule(Rule):
    """PReLU: y = max(x, 0) + a min(x, 0), with one a or one for each channel [C]."""

    names = ("weight",)

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        shape = cast(nn.PReLU, module).weight.shape
        below = at_least_float32(io.inputs).clamp(max=0)
        if shape.numel() == 1:
            below, io = below.reshape(len(below), 1, -1), io._replace(gradient=io.gradient.reshape(len(below), 1, -1))
        gradients = channel_gradients(below, below.new_zeros(shape.numel()), io, names)
        return {"weight": gradients["weight"].reshape(io.groups, *shape)}
