"""Sampler that partitions a data set among ranks: every sample on exactly one, whatever the number of either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, cast

from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler

from ..errors import DataError, ImportanceError
from .ranks import Group, Ranks, initialised

Ranges = list[tuple[int, int]]  # [start, stop) of the global order, ascending, none twice


class ShareSampler(Sampler[Any]):
    """The samples of this rank: a contiguous part of the global order, none padded, none dropped.

        loader = DataLoader(dataset, batch_size=64, sampler=ShareSampler(dataset))

    Ranks take N / ranks samples each, to one; with more ranks than samples some take none. Within `importance` shares
    are cut between groups of `group_size` samples of the global order, so that the groups are those of one process.

    Args:
        source: A data set of N samples, read in its order, or a sampler of N indices (or of tuples that begin with one)
            that gives the same order on every rank: seed it.
        process_group: The ranks that share; the default group by default, and this process alone where there is none.
    """

    def __init__(self, source: Sized, process_group: Group = None) -> None:
        self.source, self.ranks = source, Ranks.of(process_group)
        self.remaining: Ranges = [(0, len(source))]  # of all ranks
        self.block_size = 1
        self._order: Sequence[Any] | None = None  # within `partitioned`

    @property
    def total(self) -> int:
        """Samples of all ranks."""
        return len(self.source)

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges())

    def __iter__(self) -> Iterator[Any]:
        order = self.order()
        return (order[place] for start, stop in self.ranges() for place in range(start, stop))

    def ranges(self) -> Ranges:
        """This rank's part of what remains, in whole blocks but for the end of the data."""
        blocks = [-(-(stop - start) // self.block_size) for start, stop in self.remaining]
        first, last = (rank * sum(blocks) // self.ranks.size for rank in (self.ranks.rank, self.ranks.rank + 1))
        parts = []
        for (start, stop), count in zip(self.remaining, blocks, strict=True):
            low, high = max(first, 0), min(last, count)
            if low < high:
                parts.append((start + low * self.block_size, min(start + high * self.block_size, stop)))
            first, last = first - count, last - count
        return parts

    @contextmanager
    def partitioned(self, block_size: int) -> Iterator[None]:
        """For the block: one order of the samples, and shares of whole blocks of it. `skip` takes effect until its end.

        Args:
            block_size: Samples that stay together: a group.
        """
        self._order, self.block_size = self.order(), block_size
        try:
            yield
        finally:
            self._order, self.block_size, self.remaining = None, 1, [(0, self.total)]

    def skip(self, done: Ranges) -> None:
        """Partition anew what is not done."""
        self.remaining = without(done, self.total)

    def order(self) -> Sequence[Any]:
        """The global order of the samples: of `partitioned` within its block, else drawn from the source anew."""
        if self._order is not None:
            return self._order
        return list(self.source) if isinstance(self.source, Sampler) else range(self.total)


def sampler_of(loader: Iterable[object]) -> object | None:
    """The sampler of a loader, if it has one; a DataLoader's own batches may come from another than `sampler`."""
    batches = getattr(loader, "batch_sampler", None)
    return getattr(batches, "sampler", None) or getattr(loader, "sampler", None)


def gives_a_share(loader: Iterable[object]) -> bool:
    """Whether a loader's sampler says that it gives this rank's share, and not everything."""
    return isinstance(sampler_of(loader), ShareSampler | DistributedSampler)


def joined(*several: Ranges) -> Ranges:
    """All of the ranges as one ascending list.

    Raises:
        DataError: They overlap.
    """
    joint: Ranges = []
    for start, stop in sorted(r for ranges in several for r in ranges):
        if joint and start < joint[-1][1]:
            raise DataError(f"the sample {start} of the order comes twice")
        if joint and start == joint[-1][1]:
            joint[-1] = joint[-1][0], stop
        elif start < stop:
            joint.append((start, stop))
    return joint


def without(done: Ranges, n: int) -> Ranges:
    """What remains of [0, n)."""
    bounds = [0, *(bound for part in joined(done) for bound in part), n]
    return [(start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True) if start < stop]


def within(ranges: Ranges, others: Ranges) -> bool:
    """Whether the others hold all of the ranges."""
    return all(any(first <= start and stop <= last for first, last in others) for start, stop in ranges)


def beginning(share: Ranges, count: int) -> Ranges:
    """The first `count` samples of a share."""
    taken = []
    for start, stop in share:
        if count > 0:
            taken.append((start, min(stop, start + count)))
        count -= stop - start
    return taken


def ranks_for(loader: Iterable[object], process_group: Group) -> Ranks:
    """The ranks whose loaders give one set of samples together.

    Args:
        loader: This rank's.
        process_group: The ranks that each give their share; False: this loader gives all. None: what its sampler says.

    Raises:
        ImportanceError: None leaves it open.
        DataError: The sampler is of other ranks, pads or drops.
    """
    sampler = sampler_of(loader)
    if isinstance(sampler, ShareSampler):
        ranks = sampler.ranks if process_group is None else Ranks.of(process_group)
        if process_group is not False and (ranks.rank, ranks.size) != (sampler.ranks.rank, sampler.ranks.size):
            raise DataError("the loader's ShareSampler shares among another group; give both the same group")
        return ranks
    if isinstance(sampler, DistributedSampler) and process_group is not False:
        samples, given = len(cast(Sized, sampler.dataset)), sampler.total_size
        if samples != given:
            raise DataError(
                f"the loader's DistributedSampler {'drops' if sampler.drop_last else 'repeats'} samples: {given} on "
                f"{sampler.num_replicas} ranks for {samples}; use potion_fast.distributed.ShareSampler"
            )
        ranks = Ranks.of(process_group)
        if (ranks.rank, ranks.size) != (sampler.rank, sampler.num_replicas):
            raise DataError("the loader's DistributedSampler shares among another group; give both the same group")
        return ranks
    if process_group is None and initialised() and Ranks.of(None).size > 1:
        raise ImportanceError(
            f"torch.distributed runs on {Ranks.of(None).size} ranks, and the loader does not say whether it gives this "
            "rank's share or everything; use a ShareSampler, or say process_group=torch.distributed.group.WORLD for a "
            "share and process_group=False for everything"
        )
    return Ranks.of(process_group)
