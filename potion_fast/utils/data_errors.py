"""Data errors that say which loader or data set they are about, which batch, and which sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ..errors import DataError, LabelError
from .adapter import DEFAULT, Adapter, read_batch
from .inputs import BatchInputs

LOADER = "the loader"  # what errors of code that reads any loader call it


@contextmanager
def data_named(name: str) -> Iterator[None]:
    """Let data errors of the block name the argument that gave the data.

    Args:
        name: Of the argument, such as "retain_loader".

    Raises:
        DataError: That of the block, in other words.
    """
    try:
        yield
    except DataError as error:
        text = str(error)
        if name in text:
            raise
        raise error.saying(text.replace(LOADER, name) if LOADER in text else f"{name}: {text}") from error


@contextmanager
def sample_named(labels: Tensor | None, place: int | Sequence[int] | Tensor, data: str = LOADER) -> Iterator[None]:
    """Let an error of the block about a label say which sample has it.

    Args:
        labels: [B], of the samples that the block reads.
        place: The first one's number in the order in which they come, or their indices [B] in the data set.
        data: Its name.

    Raises:
        LabelError: That of the block, in other words.
    """
    try:
        yield
    except LabelError as error:
        first = [] if labels is None else labels.reshape(len(labels), -1)[:, 0].tolist()
        if error.named or error.label not in first:
            raise
        row = first.index(error.label)
        sample = f"sample {place + row} in the order" if isinstance(place, int) else f"sample {int(place[row])}"
        named = error.saying(f"{error} (at {sample} of {data})")
        named.named = True
        raise named from error


def read_batches(
    loader: Iterable[object], adapter: Adapter = DEFAULT
) -> Iterator[tuple[BatchInputs, Tensor | None, int]]:
    """Inputs [B, ...] and labels [B, ...], or None, of each batch, and the number of samples before it.

    Raises:
        DataError: A batch is none, see `read_batch`; it says which.
    """
    before = 0
    for number, batch in enumerate(loader):
        try:
            inputs, labels = read_batch(batch, adapter)
        except DataError as error:
            if number == 0:  # it is no exception among others: all may be like that
                raise
            raise error.saying(f"{error} (batch {number}, after {before} samples)") from error
        yield inputs, labels, before
        before += len(inputs)
