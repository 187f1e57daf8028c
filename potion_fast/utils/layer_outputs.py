"""Outputs of a model's layers, averaged over places or tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import unwrap_compile
from .asked_samples import Asked, Samples

FEWEST_LAYERS, MOST_LAYERS = 3, 8  # that are read, evenly through the network


def layers_of(asked: Asked, samples: Samples) -> list[str]:
    """Names of layers whose outputs a probe may read, in the order in which the model calls them.

    They are the blocks of a stack (modules of several modules in an nn.Sequential or nn.ModuleList) where the model
    has some, else its modules of several modules, else single layers; their outputs have places or tokens to average
    over. At most 8 are taken, evenly through the network.
    """
    inputs, _ = next(samples.batches())
    model = unwrap_compile(asked.model)
    called: dict[str, None] = {}  # in order

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and 3 <= output.ndim <= 5:
                called.setdefault(name)

        return hook

    with _hooks(model, {name: note(name) for name, _ in model.named_modules() if name}):
        asked.log_p(inputs[:2], lambda: None)
    composite = [name for name in called if next(model.get_submodule(name).children(), None) is not None]
    blocks = [name for name in composite if isinstance(_parent(model, name), nn.Sequential | nn.ModuleList)]
    names = next((found for found in (blocks, composite) if len(found) >= FEWEST_LAYERS), list(called))
    places = torch.linspace(0, len(names) - 1, min(MOST_LAYERS, len(names))).round().long().tolist()
    return [names[place] for place in places]


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def layer_outputs(asked: Asked, samples: Samples, layers: list[str]) -> dict[str, Tensor]:
    """Outputs of layers for the samples, averaged over places or tokens: float32 [K, D] by layer, on the CPU."""
    noted: dict[str, Tensor] = {}
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            noted[name] = _averaged(output.float()).cpu()

        return hook

    def keep() -> None:
        for name, parts in found.items():
            parts.append(noted[name])

    with _hooks(asked.model, {name: note(name) for name in layers}):
        for inputs, _ in samples.batches():
            asked.log_p(inputs, keep)
    with torch.inference_mode(False):
        return {name: torch.cat(parts).clone() for name, parts in found.items()}


@contextmanager
def _hooks(model: nn.Module, hooks: dict[str, Callable[..., None]]) -> Iterator[None]:
    """Forward hooks on a model's modules, by name, for the block."""
    inner = unwrap_compile(model)
    handles = [inner.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _averaged(output: Tensor) -> Tensor:
    """[B, C, H, W], [B, H, W, C] or [B, T, D] -> [B, C or D]."""
    if output.ndim == 3:
        return output.mean(1)
    last = output.shape[1] == output.shape[2] != output.shape[3]
    return output.flatten(1, -2).mean(1) if last else output.flatten(2).mean(2)
