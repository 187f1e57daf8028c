"""Batches of a loader, and the same samples in chunks of whole groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from ..errors import DataError
from ..modes import GroupSize
from .adapter import DEFAULT, Adapter, read_batch
from .crc import crc32
from .data_errors import read_batches
from .inputs import BatchInputs, concatenated, samples_key, tensors_of

VALUES = 16  # of each sample's inputs that go into the checksum of their order


def inputs_and_labels(batch: object) -> tuple[Tensor, Tensor | None]:
    """The first two of a batch: inputs [B, ...], and labels [B, ...] or None where it has no labels.

    Args:
        batch: (input, label, ...), (input,) or the inputs alone.

    Raises:
        DataError: They are no tensors, or differ in number.
    """
    inputs, labels = read_batch(batch)
    if not isinstance(inputs, Tensor):
        raise DataError(f"the loader must give (input, label, ...) tensors, not {type(batch).__name__}")
    return inputs, labels


def check_loader(loader: Iterable[object], name: str = "the loader") -> None:
    """Refuse what gives samples in place of batches, or nothing at all.

    Raises:
        DataError: It is a map-style data set, or cannot be iterated over.
    """
    if isinstance(loader, Dataset) and not hasattr(loader, "__iter__"):
        raise DataError(
            f"{name} is a data set ({type(loader).__name__}), which gives single samples: wrap it in a DataLoader, "
            "with batch_size=None if its items are batches"
        )
    if isinstance(loader, Tensor | np.ndarray | Mapping):
        raise DataError(
            f"{name} is a {type(loader).__name__}, not a loader of batches; if it is one batch, give a list: [batch]"
        )
    if isinstance(loader, tuple | list) and _is_batch(loader):
        raise DataError(f"{name} is one batch, (inputs, labels), and not a loader of batches; give a list: [batch]")
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise DataError(f"{name} must give batches, as a DataLoader does; got a {type(loader).__name__}")


def _is_batch(entries: Sequence[object]) -> bool:
    """Whether these are the columns of the same samples: tensors or arrays as long as each other and unlike in kind."""
    columns = [entry for entry in entries if isinstance(entry, Tensor | np.ndarray) and entry.ndim]
    kinds = {(str(column.dtype), column.shape[1:]) for column in columns}
    return len(columns) == len(entries) > 1 and len(kinds) > 1 and len({len(column) for column in columns}) == 1


def check_rereadable(loader: Iterable[object], name: str) -> None:
    """The same, and refuse what can be read only once.

    Raises:
        DataError: It is a generator or another iterator.
    """
    check_loader(loader, name)
    if isinstance(loader, Iterator):
        raise DataError(
            f"{name} is read more than once and a {type(loader).__name__} gives its batches once; give a DataLoader, "
            "or a list of the batches"
        )


def count_samples(loader: Iterable[object], adapter: Adapter = DEFAULT) -> int:
    """How many samples a loader gives, on all ranks together where it has a ShareSampler.

    It is read for that, unless it is a DataLoader that knows: reading one draws random numbers.

    Raises:
        DataError: It gives something else than batches.
    """
    check_loader(loader)
    count = known_count(loader)
    return sum(len(inputs) for inputs, _, _ in read_batches(loader, adapter)) if count is None else count


def known_count(loader: Iterable[object]) -> int | None:
    """The same of a DataLoader that knows; None of any other."""
    batches = getattr(loader, "batch_sampler", None)
    if type(batches) is BatchSampler and not batches.drop_last and isinstance(batches.sampler, Sized):
        return int(getattr(batches.sampler, "total", len(batches.sampler)))
    return None


class Chunk(NamedTuple):
    """Samples that go through the model at once: whole groups, or a part of one.

    Attributes:
        inputs: [B, ...].
        labels: [B, ...], or None where the loader gives none.
        groups: Whole groups among them, of B / groups samples each; 1 for a part of a group.
        closes: The last of them ends a group.
        order: CRC-32 of all samples up to the last of these, which identifies their order; 0 where it is not requested.
    """

    inputs: BatchInputs
    labels: Tensor | None
    groups: int
    closes: bool
    order: int = 0


def chunks(
    loader: Iterable[object],
    size: GroupSize,
    adapter: Adapter = DEFAULT,
    with_order: bool = False,
    marks: Iterable[int] = (),
) -> Iterator[Chunk]:
    """A loader's samples in its order, for groups of `size` samples whatever its batch size.

    No chunk holds more than a batch and what was left of the one before: a group larger than a batch comes in parts.
    The last group may be smaller; it comes with `closes` false where its last part was given out before it was known.
    A group whose samples have several shapes, as of batches padded to the longest of each, comes in parts of one shape.

    Args:
        loader: Gives batches.
        size: Samples per group.
        adapter: Reads the batches.
        with_order: Take the checksum of the samples' order along, as a checkpoint needs it.
        marks: Numbers of groups, rising, that no chunk goes past.
    """
    source = _cut_at(_chunks(loader, size, adapter), iter(marks))
    if not with_order:
        yield from source
        return
    order = 0
    for chunk in source:
        for tensor in tensors_of(chunk.inputs):
            order = crc32(tensor.reshape(len(tensor), -1)[:, :VALUES], start=order)
        order = order if chunk.labels is None else crc32(chunk.labels, start=order)
        yield chunk._replace(order=order)


def _chunks(loader: Iterable[object], size: GroupSize, adapter: Adapter) -> Iterator[Chunk]:
    rest: tuple[BatchInputs, Tensor | None] | None = None  # samples of a group that is not begun
    begun = 0  # samples of the current group that were given out
    for inputs, labels, _ in read_batches(loader, adapter):
        most = len(inputs)
        if most == 0:
            continue
        if size == "batch":
            yield Chunk(inputs, labels, 1, True)
            continue
        if rest is not None and stackable(rest, (inputs, labels)):
            inputs = concatenated([rest[0], inputs])
            labels = torch.cat([rest[1], labels]) if rest[1] is not None and labels is not None else None
        elif rest is not None:
            begun = len(rest[0])
            yield Chunk(*rest, 1, False)
        rest = None
        while len(inputs):
            number = 1 if begun else max(1, len(inputs) // size)
            count = min(number * size - begun, len(inputs))
            if begun == 0 and count < size <= most:
                rest = inputs, labels  # the next batch completes the group
                break
            begun = (begun + count) % size
            yield Chunk(inputs[:count], None if labels is None else labels[:count], number, begun == 0)
            inputs, labels = inputs[count:], None if labels is None else labels[count:]
    if rest is not None:
        yield Chunk(*rest, 1, True)


def _cut_at(source: Iterator[Chunk], marks: Iterator[int]) -> Iterator[Chunk]:
    done, mark = 0, next(marks, None)
    for chunk in source:
        while mark is not None and chunk.groups > 1 and done < mark < done + chunk.groups:
            cut = (mark - done) * (len(chunk.inputs) // chunk.groups)
            labels = (None, None) if chunk.labels is None else (chunk.labels[:cut], chunk.labels[cut:])
            yield Chunk(chunk.inputs[:cut], labels[0], mark - done, True)
            chunk = chunk._replace(inputs=chunk.inputs[cut:], labels=labels[1], groups=done + chunk.groups - mark)
            done, mark = mark, next(marks, None)
        yield chunk
        done += chunk.groups if chunk.closes else 0
        while mark is not None and mark <= done:
            mark = next(marks, None)


def stackable(one: tuple[BatchInputs, Tensor | None], other: tuple[BatchInputs, Tensor | None]) -> bool:
    """Whether the samples of two batches can stand in one: inputs and labels have the same shapes."""
    return [samples_key(part) for part in one if part is not None] == [
        samples_key(part) for part in other if part is not None
    ]
