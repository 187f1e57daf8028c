"""Batches of the retain set, each with one of S_f beside it: what the methods train on that take both at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from torch import Tensor

from ...errors import DataError
from ...utils.batches import inputs_and_labels

Pair = tuple[Tensor, Tensor, Tensor, Tensor]


class Pairs:
    """A pass over the retain set; S_f starts anew, as its loader shuffles it, whenever it is used up.

    Gives (input [B, ...], label [B], input of S_f [F, ...], label of S_f [F]). The pass after goes on in S_f where this
    one stopped.
    """

    def __init__(self, forget_loader: Iterable[Any], retain_loader: Iterable[Any]) -> None:
        self.retain_loader = retain_loader
        self.forget = _over_and_over(forget_loader)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.retain_loader:
            yield *_labelled(batch), *_labelled(next(self.forget))

    def __len__(self) -> int:
        """Batches of a pass. Raises DataError where the retain loader does not know."""
        if not isinstance(self.retain_loader, Sized):
            raise DataError("the retain loader does not know its length in batches; give iterations or a budget")
        return len(self.retain_loader)


def _over_and_over(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        given = False
        for batch in loader:
            given = True
            yield batch
        if not given:
            raise DataError("the forget loader gave no batch, or could be read only once; S_f is read over and over")


def _labelled(batch: object) -> tuple[Tensor, Tensor]:
    inputs, labels = inputs_and_labels(batch)
    if labels is None:
        raise DataError("the loader gives no labels to train with")
    return inputs, labels
