"""Base class of the rules: the gradient of one kind of layer's parameters per group of samples.

It follows from the layer's inputs and from the gradient at its output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class LayerIO(NamedTuple):
    """One call of a layer in a forward pass. Dimension 0 is the batch, sample-major: B · r rows, r to a sample.

    Attributes:
        inputs: [B · r, ...], the layer's input.
        gradient: [B · r, ...], ∂(sum of losses) / ∂(the layer's output).
        groups: N: the rows of each of the B / N samples of a group are summed before |·| or ·² is taken.
    """

    inputs: Tensor
    gradient: Tensor
    groups: int


class Accumulators(NamedTuple):
    """Sums that the statistics of a layer are added to.

    Attributes:
        sums: By the parameter's name within the layer, [K, *shape], for K objectives.
        square: gradient² instead of |gradient|.
        weights: [K, N], factor of each group's |gradient| or gradient²; None for ones.
    """

    sums: Mapping[str, Tensor]
    square: bool
    weights: Tensor | None

    def add(self, name: str, gradients: Tensor) -> None:
        """Add |gradient| or gradient² of one parameter.

        Args:
            name: The parameter's, within the layer.
            gradients: [N, *shape], per group.
        """
        total = self.sums[name]  # [K, *shape]
        gradients = gradients.to(total.dtype)
        sizes = gradients.square() if self.square else gradients.abs()
        if self.weights is None:
            total += sizes.sum(0)
        else:
            total += torch.einsum("kn,n...->k...", self.weights, sizes)


class Rule:
    """Rule of one kind of layer. It has no state: the module is an argument of each call.

    A subclass gives `names` and `gradients`, and is registered with `register_rule`. Whether a rule is right in a model
    is verified on the first samples of a pass, so one that is not is left unused, and costs speed only.

    Attributes:
        names: Parameters of the layer that the rule gives gradients of, by their names within the layer.
    """

    names: ClassVar[tuple[str, ...]]

    def covers(self, module: nn.Module) -> bool:
        """Whether the rule is right for this layer with its settings."""
        return True

    def fits(self, inputs: Tensor, output: Tensor) -> bool:
        """Whether the rule is right for this call: by default, where dimension 0 is kept.

        Args:
            inputs: The layer's input.
            output: The layer's output.
        """
        return inputs.dim() > 0 and output.dim() > 0 and len(inputs) == len(output)

    def gradients(self, module: nn.Module, io: LayerIO, names: Collection[str]) -> dict[str, Tensor]:
        """The gradient per group of samples.

        Args:
            module: The layer.
            io: One call of it.
            names: Those of its parameters that are wanted, among `self.names`.

        Returns:
            By name, [N, *shape of the parameter]: the gradient of the sum of the group's losses.
        """
        raise NotImplementedError

    def accumulate(self, module: nn.Module, io: LayerIO, accumulators: Accumulators) -> None:
        """Add |gradient| or gradient² of every group. Overridden where no gradient per group need be written.

        Args:
            module: The layer.
            io: One call of it.
            accumulators: Of those of its parameters that are wanted.
        """
        for name, gradients in self.gradients(module, io, accumulators.sums).items():
            accumulators.add(name, gradients)


def grouped(tensor: Tensor, groups: int) -> Tensor:
    """All rows of a group together: [B · r, ..., d] -> [N, T, d]."""
    return tensor.reshape(groups, -1, tensor.shape[-1])


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision in float32, as sums over positions are not taken in it; other tensors as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
