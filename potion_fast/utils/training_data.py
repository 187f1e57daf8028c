"""Training set that is read by index: chosen samples, in a given order, as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from ..errors import DataError
from .adapter import Adapter, adapter_or_default, read_batch
from .data_errors import data_named
from .inputs import BatchInputs

BATCH_SIZE = 128  # where neither the caller nor a DataLoader of his says

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class TrainingData:
    """A training set of samples that can be asked for by their index.

    Attributes:
        dataset: Gives the sample of an index: (input, label, ...), a mapping, or what the adapter reads once batched.
        adapter: Splits batches into inputs and labels, and calls the model.
        batch_size: Samples per batch, where a reader does not say.
        workers: Processes that read samples.
        collate: Makes a batch of a list of samples; None: PyTorch's.
        name: Of the argument that gave it, for errors.
    """

    dataset: Dataset[Any]
    adapter: Adapter
    batch_size: int = BATCH_SIZE
    workers: int = 0
    collate: Collate | None = None
    name: str = "train_set"

    @classmethod
    def of(
        cls,
        train_set: object,
        *,
        adapter: Adapter | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        name: str = "train_set",
    ) -> TrainingData:
        """The training data that a caller means.

        Args:
            train_set: A data set with `__len__` and `__getitem__`, or a DataLoader over one, whose collate_fn, batch
                size and workers are taken, and whose order and sampler are not.
            adapter: See `Adapter`.
            batch_size: Samples per batch; that of the DataLoader, or 128.
            workers: Processes that read samples; those of the DataLoader, or none.
            name: Of the argument, for errors.

        Raises:
            DataError: It cannot be read by index, or is empty; a batch size below 1.
        """
        chosen = adapter_or_default(adapter)
        if isinstance(train_set, TrainingData):
            return train_set
        collate = None
        if isinstance(train_set, DataLoader):
            if train_set.batch_size is None and train_set.batch_sampler is None:
                raise DataError(f"{name} is a DataLoader whose items are batches; samples are read by their index")
            batch_size = train_set.batch_size if batch_size is None else batch_size
            workers = train_set.num_workers if workers is None else workers
            collate, train_set = train_set.collate_fn, train_set.dataset
        _check_indexed(train_set, name)
        for value, least, what in ((batch_size, 1, "batch_size"), (workers, 0, "workers")):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise DataError(f"{what} must be a whole number, at least {least}, not {value!r}")
        return cls(cast("Dataset[Any]", train_set), chosen, batch_size or BATCH_SIZE, workers or 0, collate, name)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def loader(self, indices: Sequence[int] | Tensor, batch_size: int | None = None, seed: int = 0) -> DataLoader[Any]:
        """A loader of these samples, in this order, whose batches are as the adapter takes them; seed: of workers."""
        order = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        return DataLoader(
            Subset(self.dataset, order),
            batch_size=batch_size or self.batch_size,
            num_workers=self.workers,
            collate_fn=self.collate,
            generator=torch.Generator().manual_seed(seed),  # else each iteration would draw a number from the caller's
        )

    def batches(
        self, indices: Sequence[int] | Tensor, batch_size: int | None = None, seed: int = 0
    ) -> Iterator[tuple[BatchInputs, Tensor]]:
        """Inputs [B, ...] and labels [B, ...] of these samples, in this order.

        Args:
            indices: Of the samples.
            batch_size: Samples per batch, or `self.batch_size`.
            seed: Of the workers' random generators, where there are workers.

        Raises:
            DataError: The samples have no labels, or a batch holds another number of samples than were asked for.
        """
        size, asked = batch_size or self.batch_size, len(indices)
        for number, batch in enumerate(self.loader(indices, size, seed)):
            with data_named(self.name):
                inputs, labels = read_batch(batch, self.adapter)
            expected = min(size, asked - number * size)
            if len(inputs) != expected:
                raise DataError(
                    f"{expected} samples of {self.name} made a batch of {len(inputs)}; collate_fn and adapter "
                    "must keep one sample for each index"
                )
            if labels is None:
                raise DataError(f"{self.name} gives no labels, and poison is sought by the labels trained with")
            yield inputs, labels


def plain_data(plain_set: object, data: TrainingData) -> TrainingData:
    """The training data without augmentation, read as the training data are.

    Args:
        plain_set: The same samples in the same order, see `TrainingData.of`; None where they are not augmented.
        data: The training data.

    Raises:
        DataError: They are not as many.
    """
    if plain_set is None:
        return data
    plain = TrainingData.of(
        plain_set, adapter=data.adapter, batch_size=data.batch_size, workers=data.workers, name="plain_set"
    )
    if len(plain) != len(data):
        raise DataError(
            f"plain_set has {len(plain)} samples and train_set {len(data)}; give the same ones in the same order"
        )
    return plain


def _check_indexed(train_set: object, name: str) -> None:
    if isinstance(train_set, IterableDataset) or not hasattr(train_set, "__getitem__"):
        raise DataError(
            f"{name} is a {type(train_set).__name__}, which cannot be read by index; give a data set with __len__ and "
            "__getitem__, or a DataLoader over one"
        )
    if isinstance(train_set, Tensor | tuple | dict):
        raise DataError(
            f"{name} is a {type(train_set).__name__}; give a data set of (input, label), such as "
            "torch.utils.data.TensorDataset(inputs, labels)"
        )
    if not hasattr(train_set, "__len__"):
        raise DataError(f"{name} does not tell how many samples it has; give a data set with __len__")
    if not len(train_set):
        raise DataError(f"{name} is empty")


def check_indices(indices: Iterable[Any] | Tensor, samples: int, name: str) -> Tensor:
    """Indices of samples, as int64 [K] in ascending order, each once.

    Args:
        indices: Whole numbers.
        samples: Of the training set.
        name: What they are, for errors.

    Raises:
        DataError: They are no indices of the training set.
    """
    if isinstance(indices, str | bytes):
        raise DataError(f"{name} must be indices of samples, not {indices!r}; potion_fast.user reads them from a file")
    try:
        given = torch.as_tensor(list(indices) if not isinstance(indices, Tensor) else indices)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{name} must be indices of samples, whole numbers from 0") from None
    if given.dtype == torch.bool:
        raise DataError(f"{name} is a mask; give the indices, mask.nonzero().flatten()")
    if not given.numel():
        raise DataError(f"{name} has no samples")
    if given.ndim != 1 or given.is_floating_point() or given.is_complex():
        raise DataError(
            f"{name} must be indices of samples, whole numbers in one dimension, not {given.dtype} {list(given.shape)}"
        )
    flat = given.detach().cpu().long()
    if (outside := flat[(flat < 0) | (flat >= samples)]).numel():
        raise DataError(f"{name} has the index {int(outside[0])}, and the training set has {samples} samples, from 0")
    return flat.unique()
