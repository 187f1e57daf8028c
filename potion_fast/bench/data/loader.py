"""Loaders: samples are read by worker processes as uint8, and finished batch by batch on the device that uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, Subset

from ...errors import DataError, PotionError
from .dataset import PoisonedDataset, Read, check_indices

Batch = tuple[Tensor, Tensor]  # images float32 [B, C, H, W], labels int64 [B]


class Draw(NamedTuple):
    """A sample to read.

    sample  its id
    visit   of the random crop, where the source cuts it
    """

    sample: int
    visit: int


class Order(Sampler[Draw]):
    """The samples of an epoch, the same however many processes read them.

    indices  int64 [M]
    seed     of the order where it is shuffled
    visits   draw a number for the epoch's random crops, from torch's global generator
    """

    def __init__(self, indices: np.ndarray, shuffle: bool, seed: int, visits: bool) -> None:
        self.indices = indices
        self.generator = torch.Generator().manual_seed(seed)
        self.shuffled = RandomSampler(range(len(indices)), generator=self.generator) if shuffle else None
        self.visits = visits

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Draw]:
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # as a DataLoader of this generator draws
        places = range(len(self)) if self.shuffled is None else list(self.shuffled)
        visit = int(torch.randint(2**62, ())) if self.visits else 0
        for place in places:
            yield Draw(int(self.indices[place]), visit)


class Reader(Dataset[Any]):
    """What a worker process does: a whole batch at once. An error of ours is handed over, and raised in the loader."""

    def __init__(self, dataset: PoisonedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draws: list[Draw]) -> Read | PotionError:
        try:
            return self.dataset.read([draw.sample for draw in draws], draws[0].visit)
        except PotionError as error:
            return error


class Prefetcher(Protocol):
    """Where batches are finished."""

    def begin(self, read: Read) -> Any: ...

    def hand_over(self, begun: Any) -> Batch: ...


def look_ahead(reads: Iterable[Read], lane: Prefetcher) -> Iterator[Batch]:
    """The batches in their order; each is begun before the one before it is given out."""
    begun = None
    for read in reads:
        following = lane.begin(read)
        if begun is not None:
            yield lane.hand_over(begun)
        begun = following
    if begun is not None:
        yield lane.hand_over(begun)


class CUDAPrefetcher:
    """Copies uint8 batches to the GPU and finishes them there, on a stream of its own, beside the model's work."""

    def __init__(self, dataset: PoisonedDataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.stream = torch.cuda.Stream(device)

    def begin(self, read: Read) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(self.stream):
            batch = self.dataset.finish(read, self.device)
            return batch, self.stream.record_event()

    def hand_over(self, begun: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, done = begun
        current = torch.cuda.current_stream(self.device)
        current.wait_event(done)
        for tensor in batch:
            tensor.record_stream(current)  # or its memory could be given to the next batch while it is in use
        return batch


class Loader:
    """Batches of (images float32 [B, C, H, W], labels int64 [B]) on one device.

    Attributes:
        dataset, sampler, batch_sampler, batch_size, num_workers: as a DataLoader's.
        device: where the batches are.
    """

    def __init__(
        self, source: PoisonedDataset, order: Order, whole: bool, batch_size: int, workers: int, device: str
    ) -> None:
        self.source = source
        self.sampler = order
        self.whole = whole  # all samples, not some of them
        self.batch_size = batch_size
        self.num_workers = workers
        self.batch_sampler = BatchSampler(order, batch_size, drop_last=False)  # type: ignore[arg-type]  # not of int
        self.device = torch.device(device)
        self._loader: DataLoader[Any] = DataLoader(
            Reader(source),
            batch_sampler=self.batch_sampler,
            num_workers=workers,
            collate_fn=_as_it_is,
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
            return look_ahead(self._reads(), CUDAPrefetcher(self.source, self.device))
        return (self.source.finish(read, self.device) for read in self._reads())

    def _reads(self) -> Iterator[Read]:
        for read in self._loader:
            if isinstance(read, PotionError):
                raise read
            yield Read(*read)


def _as_it_is(read: Any) -> Any:
    return read


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
        indices: the samples to read, in this order when `shuffle` is off; None reads all.
        seed: fixes the order of a shuffled loader.
        workers: processes that read samples; 0 reads them in this one.
        device: where batches are normalised and poisoned, and given out; on a CUDA device the next batch is copied and
            finished while the model works on the one before.

    Raises:
        DataError: no index at all, an index out of range or given twice, or a batch size or number of workers out of
            range.
    """
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size={batch_size} must be at least 1 and workers={workers} at least 0")
    chosen = np.arange(len(dataset)) if indices is None else check_indices(indices, len(dataset))
    if not len(chosen):
        raise DataError("the loader was given an empty list of indices; pass None to read the whole data set")
    order = Order(chosen, shuffle, seed, dataset.cuts)
    return Loader(dataset, order, indices is None, batch_size, workers, device)
