"""Layers whose weights are functions of other parameters, and parameters with several uses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from helpers.cases import TOKENS, Call, Case, plain
from helpers.layers import call_twice


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in many a model that people have
        return nn.utils.weight_norm(layer)


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm_of_all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "old_weight_norm": old_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old_spectral_norm": nn.utils.spectral_norm,
    "l1_unstructured": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.4),
    "ln_structured": lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0),
    "pruned_twice": lambda layer: prune.l1_unstructured(prune.identity(layer, "bias"), "weight", amount=0.4),
}


def reparametrised() -> list[Case]:
    """Layers whose weight is computed from other parameters."""
    layers: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Call]] = {
        "Linear": (lambda: nn.Linear(4, 4), (3, 4), plain),
        "Conv2d": (lambda: nn.Conv2d(4, 4, 3, padding=1), (4, 4, 3), plain),
        "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 4, 3), (4, 5), plain),
        "Bilinear": (lambda: nn.Bilinear(4, 4, 4), (4,), call_twice),
    }
    return [
        Case(f"{change}({kind})", partial(composed, apply, make), shape, call)
        for kind, (make, shape, call) in layers.items()
        for change, apply in CHANGES.items()
        if not (change == "orthogonal" and kind in ("Bilinear", "ConvTranspose1d"))
    ]


def composed(apply: Callable[[nn.Module], nn.Module], make: Callable[[], nn.Module]) -> nn.Module:
    return apply(make())


class Tied(nn.Module):
    """One weight in two layers, and a layer that is called twice."""

    def __init__(self, first: nn.Module, second: nn.Module, transposed: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.transposed = first, second, transposed
        if transposed:
            del second.weight
        else:
            second.weight = first.weight  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.first(x).tanh()).sin()
        if self.transposed:
            return nn.functional.linear(y, self.first.weight.t(), self.second.bias)  # type: ignore[operator, arg-type]
        return self.second(y)


def two(make: Callable[[], nn.Module], transposed: bool = False) -> nn.Module:
    return Tied(make(), make(), transposed)


class TiedTokens(nn.Module):
    """The embedding is the classifier's weight, as in language models."""

    def __init__(self, by_layer: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(TOKENS, 4), nn.Linear(4, TOKENS, bias=False)
        self.by_layer = by_layer
        if by_layer:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).tanh()
        return self.head(x) if self.by_layer else self.head(x @ self.embedding.weight.t() @ self.embedding.weight)


def tied() -> list[Case]:
    """Parameters with several uses."""
    layers: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "Linear-2d": (lambda: nn.Linear(4, 4), (4,)),
        "Linear-3d": (lambda: nn.Linear(4, 4), (3, 4)),
        "Conv1d": (lambda: nn.Conv1d(4, 4, 3, padding=1), (4, 5)),
        "Conv2d": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 4, 3)),
        "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (4, 3, 2)),
        "LayerNorm": (lambda: nn.LayerNorm(4), (3, 4)),
    }
    cases = [Case(f"tied({name})", partial(two, make), shape, plain) for name, (make, shape) in layers.items()]
    for name in ("Linear-2d", "Linear-3d"):
        make, shape = layers[name]
        cases.append(Case(f"transposed({name})", partial(two, make, transposed=True), shape, plain))
    return cases + [
        Case("tied(Embedding)", lambda: TiedTokens(True), (5,), plain, tokens=True),
        Case("product(Embedding)", lambda: TiedTokens(False), (5,), plain, tokens=True),
    ]
