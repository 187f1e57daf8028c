"""Weights that are computed from parameters alone: weight norm, standardisation, masks, slices."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


@dataclass(frozen=True)
class DerivedWeight:
    """A weight W = f(θ), whose gradients per group are pulled back to the parameters θ by autograd.

    Attributes:
        value: W, with its graph.
        edges: Name of a parameter -> where its gradient comes out of that graph.
    """

    value: Tensor
    edges: Mapping[str, GradientEdge]

    def pulled_back(self, gradients: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Gradients of parameters: [n, *shape of W] -> by name [n, *shape]; none where W does not depend on one."""
        gradients = gradients.to(self.value.dtype)
        edges = [self.edges[name] for name in names]
        pulled: Any
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                pulled = torch.autograd.grad(
                    [self.value], edges, [gradients], retain_graph=True, allow_unused=True, is_grads_batched=True
                )
        except RuntimeError:  # vmap does not take some operation
            rows = [
                torch.autograd.grad([self.value], edges, [row], retain_graph=True, allow_unused=True)
                for row in gradients
            ]
            columns: Any = zip(*rows, strict=True)
            pulled = [None if column[0] is None else torch.stack(column) for column in columns]
        return {name: gradient for name, gradient in zip(names, pulled, strict=True) if gradient is not None}


def is_reshaped(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor is a parameter, or a view with the same elements in the same order."""
    if tensor is parameter:
        return True
    return bool(
        tensor._base is parameter
        and tensor.dtype == parameter.dtype
        and tensor.numel() == parameter.numel()
        and tensor.storage_offset() == parameter.storage_offset()
        and tensor.is_contiguous()
        and parameter.is_contiguous()
        and not tensor.is_neg()
    )
