"""Layers that scale and shift: y = γ x̂ + β. ∂ℓ/∂γ of a group is Σ_t g_t x̂_t, ∂ℓ/∂β is Σ_t g_t."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ... import ops
from .rule import Rule, Use, at_least_float32


class ScaleRule(Rule):
    """What all these layers share; each says what x̂ is, and where its parameters' dimensions lie."""

    names: ClassVar[tuple[str, ...]] = ("weight", "bias")
    scale = "weight"

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """x̂, in the shape of the output."""
        raise NotImplementedError

    def summed(self, module: nn.Module, tensor: Tensor, groups: int) -> Tensor:
        """Sums over the positions of each group, [N, *shape of the parameters]; they lie last in the output."""
        return tensor.reshape(groups, -1, *cast(Tensor, getattr(module, self.scale)).shape).sum(1)

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        inputs, g = (at_least_float32(tensor) for tensor in (use.inputs, use.gradient))
        found = {}
        if self.scale in names:
            found[self.scale] = self.summed(module, g * self.normalised(module, inputs), use.groups)
        if "bias" in names:
            found["bias"] = self.summed(module, g, use.groups)
        return found


class LayerNormRule(ScaleRule):
    """nn.LayerNorm."""

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        layer = cast(nn.LayerNorm, module)
        return F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)


class RMSNormRule(ScaleRule):
    """nn.RMSNorm."""

    names = ("weight",)

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        layer = cast(nn.RMSNorm, module)
        return F.rms_norm(inputs, layer.normalized_shape, eps=layer.eps)


class ChannelRule(ScaleRule):
    """Parameters [C] of an input [B · r, C, ...]."""

    def summed(self, module: nn.Module, tensor: Tensor, groups: int) -> Tensor:
        by_group = tensor.unflatten(0, (groups, -1))  # [N, B · r / N, C, ...]
        return by_group.sum((1, *range(3, by_group.dim())))


class LayerNorm2dRule(ChannelRule):
    """LayerNorm over the channels of images [B, C, H, W] (timm, torchvision)."""

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        layer = cast(nn.LayerNorm, module)
        return F.layer_norm(inputs.movedim(1, -1), layer.normalized_shape, eps=layer.eps).movedim(-1, 1)


class GroupNormRule(ChannelRule):
    """nn.GroupNorm."""

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        layer = cast(nn.GroupNorm, module)
        return F.group_norm(inputs, layer.num_groups, eps=layer.eps)


class BatchNormRule(Rule):
    """nn.BatchNorm1d, 2d and 3d with running statistics, of inputs [B · r, C, ...]."""

    names = ("weight", "bias")

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(nn.BatchNorm2d, module)
        assert layer.running_mean is not None and layer.running_var is not None  # else samples mix
        inputs, g = at_least_float32(use.inputs), at_least_float32(use.gradient)
        scale, shift = ops.channel_sums(inputs, g, layer.running_mean.to(g.dtype))  # [B · r, C]
        found = {"weight": scale / (layer.running_var.to(g.dtype) + layer.eps).sqrt(), "bias": shift}
        return {name: found[name].unflatten(0, (use.groups, -1)).sum(1) for name in names}


class LayerScaleRule(ScaleRule):
    """LayerScale of timm: y = γ x."""

    names = ("gamma",)
    scale = "gamma"

    def covers(self, module: nn.Module) -> bool:
        return not module.inplace

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        return inputs
