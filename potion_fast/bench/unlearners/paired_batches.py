"""Batches of the retain set, each paired with a batch of S_f, for the methods that train on both at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from torch import Tensor

from ...errors import DataError
from ...utils.batches import inputs_and_labels


class PairedBatches:
    """A pass over the retain set; S_f starts anew, as its loader shuffles it, whenever it is used up.

    Gives (input [B, ...], label [B], input of S_f [F, ...], label of S_f [F]). The next pass continues in S_f where
    this one stopped.

    Args:
        forget_loader: S_f; it is iterated over and over.
        retain_loader: the retain set.
    """

    def __init__(self, forget_loader: Iterable[Any], retain_loader: Iterable[Any]) -> None:
        self.retain_loader = retain_loader
        self.forget = endless(forget_loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for batch in self.retain_loader:
            yield *labelled(batch), *labelled(next(self.forget))

    def __len__(self) -> int:
        """Batches of a pass. Raises DataError where the retain loader does not know its length."""
        if not isinstance(self.retain_loader, Sized):
            raise DataError("the retain loader does not know its length in batches; give iterations or a budget")
        return len(self.retain_loader)


def labelled(batch: object) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a loader's batch.

    Args:
        batch: (inputs [B, ...], labels [B], ...).

    Returns:
        Inputs [B, ...] and labels [B].

    Raises:
        DataError: there are no labels.
    """
    inputs, labels = inputs_and_labels(batch)
    if labels is None:
        raise DataError("the loader gives no labels to train with")
    return inputs, labels


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader over and over. Raises DataError where there is none, or none the second time."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise DataError("a loader gave no batch, or could be read only once; it is to be read over and over")
