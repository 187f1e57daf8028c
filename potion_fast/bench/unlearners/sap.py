"""SAP: weights are projected onto what trusted samples use of their inputs (Kodge et al., arXiv 2403.08618)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from typing_extensions import override

from ...errors import ModelError
from ...utils.copies import copy_model
from ...utils.predict import accuracy, predict
from .base import Loaders, Unlearned, Unlearner
from .registry import register_unlearner


@dataclass(frozen=True)
class Projected:
    """The model at one strength of the projection.

    Attributes:
        alpha: a.
        trusted_accuracy: on the trusted samples.
    """

    alpha: float
    trusted_accuracy: float


@register_unlearner("sap")
class SAP(Unlearner):
    """W ← W U Λ Uᵀ for every linear layer and convolution, at once.

    *SAP: Corrective Machine Unlearning with Scaled Activation Projection*: U are the principal directions of a layer's
    inputs for the trusted samples (of a convolution the patches that it multiplies), uncentred; s_i is the share of
    direction i in the sum of their squares, and Λ_ii = a s_i / ((a − 1) s_i + 1), which is near 1 where s_i ≫ 1 / a.
    Trusted are the samples with the lowest loss of the training data without S_f, read as stored. Of all a the one with
    the highest accuracy on them is taken, the smallest where several have it: it projects most. Needs no poison; what
    was found is only left out. Convolutions with groups stay as they are.

    Attributes:
        trusted: how many samples are.
        alphas: a, tried in this order.
    """

    trusted: PositiveInt = 1000
    alphas: Annotated[Sequence[PositiveFloat], Field(min_length=1)] = (300, 1_000, 3_000, 10_000, 30_000, 100_000)

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        start, data = time.perf_counter(), loaders.by_index(self.name)
        plain: Any = data.train_set if data.plain_set is None else data.plain_set
        rest = np.setdiff1d(np.arange(len(plain)), np.asarray(data.found)).tolist()
        projected = copy_model(model).eval()
        logits, labels = predict(projected, DataLoader(Subset(plain, rest), data.batch_size), progress)
        order = F.cross_entropy(logits, labels, reduction="none").argsort(stable=True)
        samples = [rest[place] for place in order[: self.trusted].sort().values.tolist()]
        trusted = DataLoader(Subset(plain, samples), data.batch_size)
        layers: list[Any] = [layer for layer in projected.modules() if _width(layer)]
        if not layers:
            raise ModelError(f"{self.name} changes linear layers and convolutions, and the model has none")
        with _second_moments(layers) as moments:
            predict(projected, trusted)
        weights: list[Tensor] = [layer.weight.detach().clone() for layer in layers]
        bases = [torch.linalg.eigh(moment) for moment in moments]
        trace = []
        for alpha in self.alphas:
            _project(layers, weights, bases, alpha)
            trace.append(Projected(alpha, accuracy(*predict(projected, trusted))))
        best = max(entry.trusted_accuracy for entry in trace)
        kept = min((entry for entry in trace if entry.trusted_accuracy == best), key=lambda entry: entry.alpha)
        _project(layers, weights, bases, kept.alpha)
        seconds = {"projection": time.perf_counter() - start}
        return Unlearned(model=projected, method=self.name, trace=trace, kept=kept, seconds=seconds)


def _width(layer: nn.Module) -> int:
    """How many inputs each of the layer's outputs is a sum over; 0 for a layer that stays as it is."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return layer.weight[0].numel()
    return 0


@contextmanager
def _second_moments(layers: Sequence[Any]) -> Iterator[list[Tensor]]:
    """Adds up x xᵀ of all inputs of each layer while the model runs, float64 [D, D]."""
    moments = [torch.zeros(_width(layer), _width(layer), dtype=torch.float64) for layer in layers]

    def adding(total: Tensor) -> Any:
        def add(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            rows = _rows(layer, inputs[0].detach()).double()
            total.add_((rows.T @ rows).cpu())

        return add

    hooks = [layer.register_forward_pre_hook(adding(total)) for layer, total in zip(layers, moments, strict=True)]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def _rows(layer: Any, inputs: Tensor) -> Tensor:
    """What a layer multiplies with its weights, [M, D]."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, layer.in_features)
    padding = layer.padding
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, _pad_mode(layer))  # what the layer does itself
        padding = 0
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)  # [B, D, places]
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _pad_mode(layer: nn.Conv2d) -> str:
    return "constant" if layer.padding_mode == "zeros" else layer.padding_mode


def _project(
    layers: Sequence[Any], weights: Sequence[Tensor], bases: Sequence[tuple[Tensor, Tensor]], alpha: float
) -> None:
    """Put W U Λ Uᵀ into the layers."""
    for layer, weight, (squares, directions) in zip(layers, weights, bases, strict=True):
        squares = squares.clamp(min=0)
        share = squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
        scale = alpha * share / ((alpha - 1) * share + 1)
        projection = (directions * scale) @ directions.T
        with torch.no_grad():
            layer.weight.copy_((weight.flatten(1).double().cpu() @ projection).view(weight.shape))
