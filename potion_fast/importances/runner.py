"""The course of a pass: by one process or by several ranks, from a checkpoint or from the start, to the sums of all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

from ..distributed import Ranks, ShareSampler
from ..distributed.fsdp import units
from ..distributed.sampler import sampler_of
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from .checkpoints import PassCheckpoint, Position
from .local_pass import Pass
from .rank_checkpoints import Parts


def summed(run: Pass, loader: Iterable[object], ranks: Ranks) -> tuple[Position, PassCheckpoint | None]:
    """Go through this rank's samples, then add up the sums of all ranks in `run.buffers`.

    Returns how many samples and groups they are of, and what keeps the checkpoint, to be removed in the end.
    """
    checkpoint, seconds = run.options.checkpoint, run.options.checkpoint_seconds
    sampler, unit, sharded = shared(loader, ranks), unit_of(loader, run.group_size), bool(units(run.model))
    with nullcontext() if sampler is None else sampler.shared_out(unit):
        keeper: PassCheckpoint | None = None
        with ranks.raising_together():
            if checkpoint is not None and sharded:
                raise ImportanceError("a pass over a model that FSDP2 has sharded keeps no checkpoints; leave them off")
            what = run.what() if ranks.size > 1 or checkpoint is not None else {}
            if sampler is not None:
                what.update({"samples": sampler.mark(), "samples that stay together": unit})
        ranks.check_same(what)
        start = Position()
        if checkpoint is not None and sampler is not None:
            keeper = Parts(checkpoint, seconds, run.buffers, what, ranks=ranks, sampler=sampler)
            keeper.begin(run.options.resume)
        elif checkpoint is not None and ranks.size > 1:
            raise DataError("checkpoint= on several ranks needs a loader with a potion_fast.distributed.ShareSampler")
        elif checkpoint is not None:
            keeper = PassCheckpoint(checkpoint, seconds, run.buffers, what)
            start = keeper.load() if run.options.resume else start
        with ranks.raising_together():
            position = run.over(loader, start, keeper)
            if sampler is not None and position.samples != len(sampler):
                raise DataError(
                    f"the loader gave {position.samples} of the {len(sampler)} samples of its ShareSampler; "
                    "leave drop_last off"
                )
            if isinstance(keeper, Parts):
                keeper.finished(position)
    return added_up(run, ranks, keeper, position), keeper


def added_up(run: Pass, ranks: Ranks, keeper: PassCheckpoint | None, position: Position) -> Position:
    """The sums of all ranks in place of this one's, and what they are of."""
    own = keeper.total() if isinstance(keeper, Parts) else (position.samples, position.terms)
    samples, terms, fallback = zip(*ranks.all_gather((*own, run.fallback)), strict=True)
    if sum(samples) == 0:
        raise DataError("the loader gave no samples; importances need at least one")
    run.fallback.update(*fallback)
    run.add_up(ranks)
    return Position(sum(samples), sum(terms))


def shared(loader: Iterable[object], ranks: Ranks) -> ShareSampler | None:
    """The sampler that shares a loader's samples out among these ranks; one that shares among others is left alone."""
    sampler = sampler_of(loader)
    return sampler if isinstance(sampler, ShareSampler) and sampler.ranks.size == ranks.size else None


def unit_of(loader: Iterable[object], group_size: GroupSize) -> int:
    """Samples of a group, that stay together on one rank: those of a batch, of a loader that tells, where it is one."""
    return group_size if isinstance(group_size, int) else int(getattr(loader, "batch_size", None) or 1)
