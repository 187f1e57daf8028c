"""A layer in a small model, and rows of options for such cases: every pair of values of two options occurs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 7  # groups of 4 leave a smaller one, and so do batches of 3
TOKENS = 6  # different ones
Row = Mapping[str, Any]
Call = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A layer and how it is called.

    Attributes:
        name: The layer and its options.
        make: Makes the layer.
        shape: Of a sample; of token numbers where `tokens`.
        call: (layer, x [B, *shape]) -> [B, ...].
        tokens: The layer takes token numbers, and comes first.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Call
    tokens: bool = False

    def inputs(self) -> Tensor:
        """[SAMPLES, *shape], float64 or int64."""
        generator = torch.Generator().manual_seed(0)
        if self.tokens:
            return torch.randint(0, TOKENS, (SAMPLES, *self.shape), generator=generator)
        return torch.randn(SAMPLES, *self.shape, generator=generator, dtype=torch.float64)

    def model(self, first: bool) -> nn.Module:
        """The model, in eval mode and float64: the layer comes first, or after a linear layer over the last dimension.

        It has run once in train mode, so that norms have statistics; no parameter has its initial value.
        """
        torch.manual_seed(0)
        before = nn.Identity() if first else nn.Sequential(nn.Linear(self.shape[-1], self.shape[-1]), nn.Tanh())
        body = nn.Sequential(before, Called(self.make(), self.call), nn.Tanh(), nn.Flatten()).double().train()
        with torch.no_grad():
            for parameter in body.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            width = body(self.inputs()).shape[1]
            for parameter in body.parameters():
                parameter *= 1.1
        return nn.Sequential(body, nn.Linear(width, 3).double()).eval()


class Called(nn.Module):
    """A layer, called in its own way."""

    def __init__(self, layer: nn.Module, call: Call) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer, x)


def pairs(options: Mapping[str, Sequence[Any]], valid: Callable[[Row], bool] = lambda row: True) -> Iterator[Row]:
    """Few rows of the product of the options that hold every pair of values of two options that a valid row has."""
    rows = [row for values in product(*options.values()) if valid(row := dict(zip(options, values, strict=True)))]
    random.Random(0).shuffle(rows)
    held = [{*combinations(((name, str(value)) for name, value in row.items()), 2)} for row in rows]
    missing = set().union(*held)
    while missing:
        best = max(range(len(rows)), key=lambda i: len(held[i] & missing))
        missing -= held[best]
        yield rows[best]


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def named(kind: str, row: Row) -> str:
    return f"{kind}({', '.join(f'{name}={value}' for name, value in row.items())})"


def cases_of(
    kind: str,
    rows: Iterable[Row],
    make: Callable[..., nn.Module],
    shape: tuple[int, ...],
    call_of: Callable[[Row], Call] = lambda row: plain,
) -> list[Case]:
    """A case for each row of options, of which `call_of` makes how the layer is called."""
    return [Case(named(kind, row), partial(make, **row), shape, call_of(row)) for row in rows]
