"""Loaders: samples are read by worker processes as uint8, and finished batch by batch on the device that uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, Subset

from ...errors import DataError, PotionError
from .dataset import PoisonedDataset, RawBatch, check_indices

Batch = tuple[Tensor, Tensor]  # images float32 [B, C, H, W], labels int64 [B]


class SampleRef(NamedTuple):
    """A sample to read.

    Attributes:
        sample: its id.
        visit: of the random crop, where the source cuts it.
    """

    sample: int
    visit: int


class EpochSampler(Sampler[SampleRef]):
    """The samples of an epoch, the same however many processes read them.

    Args:
        indices: int64 [M].
        shuffle: draw a new order for each epoch.
        seed: of these orders.
        visits: draw a number for the epoch's random crops, from torch's global generator.
    """

    def __init__(self, indices: np.ndarray, shuffle: bool, seed: int, visits: bool) -> None:
        self.indices = indices
        self.generator = torch.Generator().manual_seed(seed)
        self.shuffled = RandomSampler(range(len(indices)), generator=self.generator) if shuffle else None
        self.visits = visits

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[SampleRef]:
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # as a DataLoader of this generator draws
        positions = range(len(self)) if self.shuffled is None else list(self.shuffled)
        visit = int(torch.randint(2**62, ())) if self.visits else 0
        for position in positions:
            yield SampleRef(int(self.indices[position]), visit)


class BatchReader(Dataset[Any]):
    """What a worker process runs: it reads a whole batch at once.

    An error of the project's own is returned, and raised in the loader's process.
    """

    def __init__(self, dataset: PoisonedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, refs: list[SampleRef]) -> RawBatch | PotionError:
        try:
            return self.dataset.read([ref.sample for ref in refs], refs[0].visit)
        except PotionError as error:
            return error


class Prefetcher(Protocol):
    """Finishes batches ahead of their use."""

    def submit(self, raw: RawBatch) -> Any:
        """Start to finish a batch; returns what `result` takes."""

    def result(self, pending: Any) -> Batch:
        """The finished batch, for use on the current stream."""


def prefetch(raw_batches: Iterable[RawBatch], prefetcher: Prefetcher) -> Iterator[Batch]:
    """Finish batches one ahead: each is submitted before the result of the one before it is given out.

    Args:
        raw_batches: batches as they are read.
        prefetcher: where they are finished.

    Yields:
        The finished batches, in their order.
    """
    pending = None
    for raw in raw_batches:
        following = prefetcher.submit(raw)
        if pending is not None:
            yield prefetcher.result(pending)
        pending = following
    if pending is not None:
        yield prefetcher.result(pending)


class CUDAPrefetcher:
    """Copies uint8 batches to the GPU and normalises them there, on a stream of its own."""

    def __init__(self, dataset: PoisonedDataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.stream = torch.cuda.Stream(device)

    def submit(self, raw: RawBatch) -> tuple[Batch, torch.cuda.Event]:
        """Enqueue the copy and the rest; returns the batch and the event that ends its work."""
        with torch.cuda.stream(self.stream):
            batch = self.dataset.finish(raw, self.device)
            return batch, self.stream.record_event()

    def result(self, pending: tuple[Batch, torch.cuda.Event]) -> Batch:
        """The batch, which the current stream waits for."""
        batch, finished = pending
        current = torch.cuda.current_stream(self.device)
        current.wait_event(finished)
        for tensor in batch:
            tensor.record_stream(current)  # or its memory could be given to the next batch while it is in use
        return batch


class Loader:
    """Batches of (images float32 [B, C, H, W], labels int64 [B]) on one device.

    `dataset`, `sampler`, `batch_sampler`, `batch_size` and `num_workers` are as a DataLoader's.

    Args:
        source: the data.
        sampler: which samples, in which order.
        whole: whether the sampler gives all samples of the data.
        batch_size: samples of a batch; the last one may have fewer.
        workers: processes that read; 0 reads in this one.
        device: where the batches are given out.
    """

    def __init__(
        self,
        source: PoisonedDataset,
        sampler: EpochSampler,
        whole: bool,
        batch_size: int,
        workers: int,
        device: str,
    ) -> None:
        self.source = source
        self.sampler = sampler
        self.whole = whole
        self.batch_size = batch_size
        self.num_workers = workers
        self.batch_sampler = BatchSampler(sampler, batch_size, drop_last=False)  # type: ignore[arg-type]  # not of int
        self.device = torch.device(device)
        self._loader: DataLoader[Any] = DataLoader(
            BatchReader(source),
            batch_sampler=self.batch_sampler,
            num_workers=workers,
            collate_fn=_identity,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # of the workers' own seeds, which nothing draws from
        )

    @property
    def dataset(self) -> Dataset[Batch]:
        """The samples that are read."""
        return self.source if self.whole else Subset(self.source, self.sampler.indices.tolist())

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type == "cuda":
            return prefetch(self._raw_batches(), CUDAPrefetcher(self.source, self.device))
        return (self.source.finish(raw, self.device) for raw in self._raw_batches())

    def _raw_batches(self) -> Iterator[RawBatch]:
        for raw in self._loader:
            if isinstance(raw, PotionError):
                raise raw
            yield RawBatch(*raw)


def _identity(raw: Any) -> Any:
    return raw


def make_loader(
    dataset: PoisonedDataset,
    indices: Collection[int] | None = None,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int = 0,
    device: str = "cpu",
) -> Loader:
    """A loader of (images float32 [B, C, H, W], labels int64 [B]); the last, partial batch is kept.

    Values and order do not depend on the number of workers. Augmentation draws from torch's global generator, in this
    process.

    Args:
        dataset: the data.
        indices: the samples to read, in this order when `shuffle` is off; None reads all.
        batch_size: samples of a batch.
        shuffle: draw a new order for each epoch.
        seed: fixes the order of a shuffled loader.
        workers: processes that read samples; 0 reads them in this one.
        device: where batches are normalised and poisoned, and given out; on a CUDA device the next batch is copied and
            finished while the model works on the one before.

    Returns:
        The loader, to be iterated once an epoch.

    Raises:
        DataError: no index at all, an index out of range or given twice, or a batch size or number of workers out of
            range.
    """
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size={batch_size} must be at least 1 and workers={workers} at least 0")
    chosen = np.arange(len(dataset)) if indices is None else check_indices(indices, len(dataset))
    if not len(chosen):
        raise DataError("the loader was given an empty list of indices; pass None to read the whole data set")
    sampler = EpochSampler(chosen, shuffle, seed, dataset.cuts)
    return Loader(dataset, sampler, indices is None, batch_size, workers, device)
