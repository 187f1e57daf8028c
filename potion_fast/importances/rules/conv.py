"""Convolutions of one to three spatial dimensions: the linear layer's rule, whose rows are the patches of the input."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad as convolutions

from ... import ops
from .base import Rule, Sums, Use, at_least_float32

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ConvRule(Rule):
    """nn.Conv1d, nn.Conv2d, nn.Conv3d with any stride, padding, dilation, groups and padding mode."""

    names = ("weight", "bias")

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        layer = cast(Convolution, module)
        found = {}
        if "weight" in names:
            functions = {3: convolutions.conv1d_weight, 4: convolutions.conv2d_weight, 5: convolutions.conv3d_weight}
            inputs, padding = padded(layer, use.inputs)
            parts = zip(inputs.chunk(use.groups), use.gradient.chunk(use.groups), strict=True)
            geometry = (layer.stride, padding, layer.dilation, layer.groups)
            function = functions[inputs.dim()]
            found["weight"] = torch.stack([function(a, layer.weight.shape, g, *geometry) for a, g in parts])
        if "bias" in names:
            by_group = (
                at_least_float32(use.gradient).unflatten(0, (use.groups, -1)).flatten(3)
            )  # [N, B · r / N, O, positions]
            found["bias"] = by_group.sum((1, 3))
        return found

    def accumulate(self, module: nn.Module, use: Use, sums: Sums) -> None:
        if "weight" not in sums.of:
            return super().accumulate(module, use, sums)
        layer = cast(Convolution, module)
        inputs, padding = padded(layer, use.inputs)
        ops.accumulate_conv(
            sums.of["weight"],
            inputs,
            use.gradient,
            len(inputs) // use.groups,
            layer.stride,
            padding,
            layer.dilation,
            layer.groups,
            sums.square,
            sums.weights,
            sums.of.get("bias"),
        )


def padded(layer: Convolution, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input, and the zero padding still to be added; other modes and "same" are laid out in the input."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return inputs, layer.padding
    sides = layer._reversed_padding_repeated_twice  # as F.pad takes them: last dimension first, both sides of each
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, sides, mode=mode), (0,) * len(layer.stride)
