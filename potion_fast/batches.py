"""What a loader gives: batches of (input, label, ...), and the same samples in groups of another size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .errors import DataError
from .modes import GroupSize


def inputs_and_labels(batch: object) -> tuple[Tensor, Tensor | None]:
    """The first two of a batch: inputs [B, ...] and labels [B, ...], None where it has no labels.

    Raises DataError for anything but tensors, or where the two differ in number.
    """
    inputs, labels = batch, None
    if isinstance(batch, tuple | list) and batch:
        inputs, labels = batch[0], batch[1] if len(batch) > 1 else None
    if not isinstance(inputs, Tensor) or not (labels is None or isinstance(labels, Tensor)):
        raise DataError(f"the loader must give (input, label, ...) tensors, not {type(batch).__name__}")
    if inputs.ndim == 0 or (labels is not None and (labels.ndim == 0 or len(labels) != len(inputs))):
        raise DataError("the loader gave a batch whose inputs and labels differ in number")
    return inputs, labels


def groups(loader: Iterable[object], size: GroupSize) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Regroup a loader's batches: exactly `size` samples each, in order, the last one what is left.

    Yields inputs [m, ...] and labels [m], or None where the loader gives none.
    """
    if size == "batch":
        yield from map(inputs_and_labels, loader)
        return
    held: tuple[Tensor, Tensor | None] | None = None
    for batch in loader:
        inputs, labels = inputs_and_labels(batch)
        if held is not None:
            inputs = torch.cat([held[0], inputs])
            labels = torch.cat([held[1], labels]) if held[1] is not None and labels is not None else None
        whole = len(inputs) - len(inputs) % size
        for start in range(0, whole, size):
            stop = start + size
            yield inputs[start:stop], None if labels is None else labels[start:stop]
        held = None if whole == len(inputs) else (inputs[whole:], None if labels is None else labels[whole:])
    if held is not None:
        yield held
