"""Models by name as the cost model sees them: parameters, FLOPs and activations, counted without computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...errors import ModelError
from ...utils.memory import peak_of
from ...utils.model import trainable
from ..models import create_model
from .cost_model import Network


def made(name: str, classes: int, shape: Sequence[int], options: Mapping[str, Any]) -> nn.Module:
    """The model of that name, in eval mode, for samples of this shape: [C, H, W], or [L] for tokens.

    Raises:
        ModelError: as `create_model` does.
    """
    return create_model(name, classes, shape[0] if len(shape) == 3 else 1, **options).eval()


def samples(number: int, shape: Sequence[int], device: torch.device | str) -> Tensor:
    """[number, ...]: noise for images, zeros for tokens."""
    if len(shape) == 1:
        return torch.zeros(number, *shape, dtype=torch.int64, device=device)
    return torch.randn(number, *shape, device=device)


def network_named(name: str, classes: int, shape: Sequence[int], options: Mapping[str, Any]) -> Network:
    """Counted on tensors without memory where the model allows it.

    Raises:
        ModelError: the model cannot be made, or cannot take such an input.
    """
    try:
        with torch.device("meta"):
            return network_of(made(name, classes, shape, options), samples(1, shape, "meta"))
    except (RuntimeError, NotImplementedError, ValueError):  # it needs values
        model = made(name, classes, shape, options)
        try:
            return network_of(model, samples(1, shape, "cpu"))
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"the model {name!r} cannot take an input {list(shape)}: {error}") from error


def network_of(model: nn.Module, sample: Tensor) -> Network:
    """Count a model's forward and backward pass over one sample [1, ...].

    FLOPs are those of matrix products, convolutions and attention. Activations are the tensors that autograd keeps,
    each storage once, weights and buffers aside; those of the forward pass alone, the most that live at once.
    """
    held = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in held:
            kept[tensor.untyped_storage()._cdata] = tensor  # held on to, so that no other gets its address
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(sample).float().square().sum()
        forward = counter.get_total_flops()
        loss.backward()
        flops = counter.get_total_flops()
    model.zero_grad()
    with torch.no_grad(), peak_of(torch.device("cpu")) as peak:  # tensors are counted, also those on "meta"
        model(sample)
    parameters = sum(parameter.numel() for parameter in trainable(model).values())
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Network(parameters, flops, forward, activations, peak[0])
