"""Driver of a pass: by one process or by several ranks, from a checkpoint or from the start, to the sums of all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np

from ..distributed import Ranks, ShareSampler
from ..distributed.sampler import sampler_of
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from ..utils.atomic_files import check_writable
from ..utils.batches import known_count
from ..utils.crc import crc32
from .checkpoints import PassCheckpoint, Position
from .local_pass import LocalPass
from .options import PassOptions
from .part import check_shuffled
from .rank_checkpoints import RankCheckpoints


def run_pass(
    run: LocalPass, loader: Iterable[object], ranks: Ranks, kept: bool = False
) -> tuple[Position, PassCheckpoint | None]:
    """Go through this rank's samples, then add up the sums of all ranks in `run.buffers`.

    Args:
        run: The pass.
        loader: This rank's.
        ranks: Those that give samples.
        kept: The checkpoint is to hold the finished pass.

    Returns:
        How many samples and groups the sums are of, and the checkpoint, to be removed in the end.

    Raises:
        ImportanceError: Also where ranks do not compute the same, or a checkpoint is of another pass.
        DataError: No samples, or not those of the checkpoint or of the sampler.
        FileError: A checkpoint cannot be read or written.
    """
    options, path = run.options, run.options.checkpoint
    sampler, block_size = own_sampler(loader, ranks), block_size_of(loader, run.group_size)
    with ranks.raising_together():
        if options.samples is not None:
            check_shuffled(loader)
            check_no_rank_checkpoints(options, ranks)
    with nullcontext() if sampler is None else sampler.partitioned(block_size):
        checkpoint: PassCheckpoint | None = None
        with ranks.raising_together():
            if path is not None and run.model.sharded:
                raise ImportanceError("a pass over a model that FSDP2 has sharded keeps no checkpoints; leave them off")
            if path is not None:
                check_writable(path)
            identity = run.identity() if ranks.size > 1 or path is not None else {}
            if sampler is not None:
                identity.update({"samples": order_fingerprint(sampler), "samples that stay together": block_size})
        ranks.check_same(identity)
        start = Position()
        if path is not None and sampler is not None:
            checkpoint = RankCheckpoints(
                path, options.checkpoint_seconds, run.buffers, identity, ranks=ranks, sampler=sampler
            )
            checkpoint.begin(options.resume)
        elif path is not None and ranks.size > 1:
            raise DataError("checkpoint= on several ranks needs a loader with a potion_fast.distributed.ShareSampler")
        elif path is not None:
            state = [] if run.part is None else run.part.state
            checkpoint = PassCheckpoint(path, options.checkpoint_seconds, [*run.buffers, *state], identity)
            start = checkpoint.load() if options.resume else start
        with ranks.raising_together():
            if checkpoint is not None and checkpoint.without_rule is not None:
                check_count(loader, checkpoint.data_samples or start.samples)
                run.data_samples = checkpoint.data_samples
                run.without_rule.update(checkpoint.without_rule)
                return start, checkpoint
            position = accumulated(run, loader, start, checkpoint)
            if sampler is not None and run.data_samples is None and position.samples != len(sampler):
                raise DataError(
                    f"the loader gave {position.samples} of the {len(sampler)} samples of its ShareSampler; "
                    "leave drop_last off"
                )
            if checkpoint is not None:
                checkpoint.data_samples = run.data_samples
                checkpoint.finished(position, run.without_rule, kept)
    return added_up(run, ranks, checkpoint, position), checkpoint


def accumulated(
    run: LocalPass, loader: Iterable[object], start: Position, checkpoint: PassCheckpoint | None
) -> Position:
    """As `LocalPass.accumulate`; where a part is read, the other ranks are told of the end, and of an error."""
    if run.part is None:
        return run.accumulate(loader, start, checkpoint)
    try:
        position = run.accumulate(loader, start, checkpoint)
    except Exception:
        run.part.close(start, failed=True)
        raise
    run.part.close(position)
    return position


def check_no_rank_checkpoints(options: PassOptions, ranks: Ranks) -> None:
    """Refuse checkpoints of several ranks: where each has ended may be another place for another number of them.

    Raises:
        ImportanceError: There are some.
    """
    if options.checkpoint is not None and ranks.size > 1:
        raise ImportanceError(
            "a pass over a part of the data keeps no checkpoints on several ranks; leave out checkpoint or samples"
        )


def check_count(loader: Iterable[object], samples: int) -> None:
    """Raise DataError where a loader is known to give another number of samples than a finished pass was over."""
    count = known_count(loader)
    if count is not None and count != samples:
        raise DataError(f"the checkpoint is of a finished pass over {samples} samples, and the loader gives {count}")


def added_up(run: LocalPass, ranks: Ranks, checkpoint: PassCheckpoint | None, position: Position) -> Position:
    """Put the sums of all ranks in place of this one's, and return the samples and groups that they are of."""
    own = checkpoint.total() if isinstance(checkpoint, RankCheckpoints) else (position.samples, position.terms)
    total = own[0] if run.data_samples is None else run.data_samples
    gathered = ranks.all_gather((*own, total, run.without_rule, run.unconnected or set()))
    samples, terms, totals, without_rule, unconnected = zip(*gathered, strict=True)
    if sum(samples) == 0:
        raise DataError("the loader gave no samples; importances need at least one")
    run.without_rule.update(*without_rule)
    run.unconnected = set().union(*unconnected)
    run.data_samples = sum(totals)
    run.add_up(ranks)
    return Position(sum(samples), sum(terms))


def own_sampler(loader: Iterable[object], ranks: Ranks) -> ShareSampler | None:
    """The sampler that partitions a loader's samples among these ranks; one of other ranks is unchanged."""
    sampler = sampler_of(loader)
    return sampler if isinstance(sampler, ShareSampler) and sampler.ranks.size == ranks.size else None


def order_fingerprint(sampler: ShareSampler) -> str:
    """A text that tells one global order of samples from another."""
    order = sampler.order()
    if isinstance(order, range):
        return f"{len(order)} in their order"
    indices = np.array([key[0] if isinstance(key, tuple) else key for key in order], dtype=np.int64)
    return f"{len(order)}, CRC-32 {crc32(indices):08x}"


def block_size_of(loader: Iterable[object], group_size: GroupSize) -> int:
    """Samples of a group, that stay together on one rank: for "batch" the loader's batch size, where it has one."""
    return group_size if isinstance(group_size, int) else int(getattr(loader, "batch_size", None) or 1)
