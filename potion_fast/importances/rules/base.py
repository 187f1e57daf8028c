"""What a rule is: how the gradient of one kind of layer's parameters, per group of samples, follows from what the layer
got and the gradient at what it gave."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Use(NamedTuple):
    """One call of a layer in a forward pass. Dimension 0 is the batch, sample-major: B · r rows, r to a sample.

    inputs    what the layer got
    gradient  ∂(sum of losses) / ∂(what it gave)
    groups    N: the rows of each of the B / N samples of a group are summed before |·| or ·² is taken
    """

    inputs: Tensor
    gradient: Tensor
    groups: int


class Sums(NamedTuple):
    """Where the statistics of a layer go.

    of       name within the layer -> [K, *shape], K objectives
    square   gradient² instead of |gradient|
    weights  [K, N], factor of each group's |gradient| or gradient²; None for ones
    """

    of: Mapping[str, Tensor]
    square: bool
    weights: Tensor | None

    def add(self, name: str, gradients: Tensor) -> None:
        """Add the gradients [N, *shape] of one parameter."""
        total = self.of[name]  # [K, *shape]
        gradients = gradients.to(total.dtype)
        sizes = gradients.square() if self.square else gradients.abs()
        if self.weights is None:
            total += sizes.sum(0)
        else:
            total += torch.einsum("kn,n...->k...", self.weights, sizes)


class Rule:
    """Rule of one kind of layer. Without state: a module comes in with each call.

    names  parameters of the layer that the rule gives gradients of
    """

    names: ClassVar[tuple[str, ...]]

    def covers(self, module: nn.Module) -> bool:
        """Whether this layer, with its settings, is one that the rule is right for."""
        return True

    def fits(self, inputs: Tensor, output: Tensor) -> bool:
        """Whether this call is one that the rule is right for: by default, dimension 0 is kept."""
        return inputs.dim() > 0 and output.dim() > 0 and len(inputs) == len(output)

    def gradients(self, module: nn.Module, use: Use, names: Collection[str]) -> dict[str, Tensor]:
        """The gradient of the named parameters for every group, [N, *shape]."""
        raise NotImplementedError

    def accumulate(self, module: nn.Module, use: Use, sums: Sums) -> None:
        """Add |gradient| or gradient² of every group. Overridden where no gradient per group need be written."""
        for name, gradients in self.gradients(module, use, sums.of).items():
            sums.add(name, gradients)


def grouped(tensor: Tensor, groups: int) -> Tensor:
    """[B · r, ..., d] -> [N, T, d]: all rows of a group together."""
    return tensor.reshape(groups, -1, tensor.shape[-1])


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision in float32: sums over positions are not taken in it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
