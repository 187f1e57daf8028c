"""Rules of convolutions of one to three spatial dimensions: linear layers whose rows are the patches of the input."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad as convolutions
from typing_extensions import override

from ... import ops
from .base import Accumulators, LayerIO, Rule, at_least_float32
from .registry import register_rule

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@register_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
class ConvRule(Rule):
    """nn.Conv1d, nn.Conv2d, nn.Conv3d with any stride, padding, dilation, groups and padding mode."""

    names = ("weight", "bias")

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(Convolution, module)
        gradients = {}
        if "weight" in names:
            functions = {3: convolutions.conv1d_weight, 4: convolutions.conv2d_weight, 5: convolutions.conv3d_weight}
            inputs, padding = padded(layer, io.inputs)
            parts = zip(inputs.chunk(io.groups), io.gradient.chunk(io.groups), strict=True)
            geometry = (layer.stride, padding, layer.dilation, layer.groups)
            function = functions[inputs.dim()]
            gradients["weight"] = torch.stack([function(a, layer.weight.shape, g, *geometry) for a, g in parts])
        if "bias" in names:
            by_group = (
                at_least_float32(io.gradient).unflatten(0, (io.groups, -1)).flatten(3)
            )  # [N, B · r / N, O, positions]
            gradients["bias"] = by_group.sum((1, 3))
        return gradients

    @override
    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        sums = accumulators.sums
        if "weight" not in sums:
            return super().accumulate(module, io, accumulators)
        layer = cast(Convolution, module)
        inputs, padding = padded(layer, io.inputs)
        ops.accumulate_conv(
            sums["weight"],
            inputs,
            io.gradient,
            len(inputs) // io.groups,
            layer.stride,
            padding,
            layer.dilation,
            layer.groups,
            accumulators.square,
            accumulators.weights,
            sums.get("bias"),
        )


class ConvTransposeRule(ConvRule):
    """Transposed convolutions: their gradient is a convolution's whose input and output gradient change places."""

    @override
    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        gradients = super().gradients(module, io, set(names) - {"weight"})
        if "weight" in names:
            exchanged = LayerIO(io.gradient, io.inputs, io.groups)
            gradients |= super().gradients(module, exchanged, {"weight"})
        return gradients

    @override
    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        sums = dict(accumulators.sums)
        weight = {"weight": sums.pop("weight")} if "weight" in sums else {}
        if weight:
            exchanged = LayerIO(io.gradient, io.inputs, io.groups)
            super().accumulate(module, exchanged, accumulators._replace(sums=weight))
        if sums:
            super().accumulate(module, io, accumulators._replace(sums=sums))


def padded(layer: Convolution, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input, and the zero padding still to be added; other modes and "same" are laid out in the input."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return inputs, layer.padding
    sides = layer._reversed_padding_repeated_twice  # as F.pad takes them: last dimension first, both sides of each
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, sides, mode=mode), (0,) * len(layer.stride)
