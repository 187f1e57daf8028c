"""A pass over a model that FSDP2 has sharded: all ranks in step, each left with the importances of its own shards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Shard

from ..distributed import Ranks
from ..distributed.fsdp import reshard, shard_ranks
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from ..utils.batches import Chunk, pieces
from ..utils.progress import bar
from .checkpoints import PassCheckpoint, Position
from .engine import Engine, Target
from .fsdp_gather import Gathering
from .hooks import frozen
from .local_pass import Job, Pass
from .objectives import Objective
from .options import PassOptions
from .rule_check import SAMPLES, Watch

Sample = tuple[Tensor, Tensor | None]  # input [1, ...], label [1, ...]


class WholeSums(dict[str, Tensor]):
    """name -> [K, *shape], sums for a whole parameter over this rank's batch, made when they are asked for.

    Once complete they are summed over all ranks, each keeping its shard's (a reduce-scatter), and forgotten: so the
    pass holds, beside the shards' sums, what one layer's take.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], shards: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parameters, self.shards = parameters, shards

    def __missing__(self, name: str) -> Tensor:
        shard = self.shards[name]  # [K, *shape of the shard]
        self[name] = shard.new_zeros(len(shard), *self.parameters[name].shape)
        return self[name]

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            mesh, placements = self.parameters[name].device_mesh, self.parameters[name].placements  # type: ignore[attr-defined]
            parts = DTensor.from_local(self.pop(name), mesh, [Partial()] * mesh.ndim, run_check=False)
            moved = [Shard(p.dim + 1) if isinstance(p, Shard) else p for p in placements]  # dimension 0 is K
            self.shards[name].add_(parts.redistribute(placements=moved).to_local())


class ShardedPass(Pass):
    """Every rank runs as many batches as the others, since all take part in gathering each layer's parameters.

    One that has no samples left goes on with a sample of another rank, whose weight is 0. What goes wrong in the middle
    of a batch is raised before the next, on all ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: dict[str, nn.Parameter],
        objectives: list[Objective],
        group_size: GroupSize,
        options: PassOptions,
        ranks: Ranks,
    ) -> None:
        shard_ranks(parameters)  # that all are sharded, among the same ranks
        if options.compiled:
            raise ImportanceError("a pass over a model that FSDP2 has sharded is not compiled; leave out compiled")
        holders = next(iter(parameters.values())).device_mesh.size()  # type: ignore[attr-defined]
        if holders != ranks.size:
            raise ImportanceError(
                f"FSDP2 has sharded the model among {holders} ranks, and {ranks.size} give samples; a pass needs all "
                "of them, each with its share: use a ShareSampler"
            )
        super().__init__(model, parameters, objectives, group_size, options)
        self.ranks, self.gathering = ranks, Gathering.of(model, parameters)
        self.real = 0  # groups of the batch at hand that count
        self.failed: Exception | None = None
        for engine in self.engines:
            engine.gathered = True

    def what(self) -> dict[str, Any]:
        whole = {"shapes": [[name, list(p.shape)] for name, p in self.parameters.items()]}
        return {**super().what(), **whole, "weights (fingerprint)": "of shards"}

    def add_up(self, ranks: Ranks) -> None:
        """They are, layer by layer."""

    def over(self, loader: Iterable[object], start: Position, keeper: PassCheckpoint | None) -> Position:
        position, source = Position(), pieces(loader, self.group_size)
        fill: Sample | None = None
        with bar(what="importances", unit="sample", shown=self.options.progress) as samples_done:
            while True:
                with self.ranks.raising_together():
                    piece = self._next(source)
                first = None if piece is None else first_of(piece)
                there = [each for each in self.ranks.all_gather(first) if each is not None]
                if not there:
                    return position
                if fill is None:
                    fill = there[0]
                    self._prove(self._filled(None, fill))
                self.seen = position.samples
                self._add(self._filled(piece, fill))
                if piece is not None:
                    position = position.after(piece, told=False)
                    samples_done.update(len(piece.inputs))

    def _next(self, source: Iterator[Chunk]) -> Chunk | None:
        if self.failed is not None:
            raise self.failed
        piece = next(source, None)
        if piece is not None and not piece.closes:
            raise ImportanceError(
                "of a sharded model, a batch must hold a whole group; let the loader give larger batches"
            )
        labelled = [objective.name for objective in self.objectives if objective.needs_labels]
        if piece is not None and piece.labels is None and labelled:
            raise DataError(f"the objective {labelled[0]!r} needs labels and the loader gives none")
        return piece

    def _filled(self, piece: Chunk | None, fill: Sample) -> Chunk:
        """The piece, with groups that do not count at its end until it has the samples that a proof needs."""
        inputs, labels = fill
        if piece is None:
            piece = Chunk(inputs[:0], None if labels is None else labels[:0], 0, True)
        self.real = piece.groups
        each = len(piece.inputs) // piece.groups if piece.groups else 1
        more = max(0, -(-(SAMPLES - len(piece.inputs)) // each))
        if not more:
            return piece
        return Chunk(
            torch.cat([piece.inputs, *[inputs.to(piece.inputs.device)] * (more * each)]),
            None
            if piece.labels is None or labels is None
            else torch.cat([piece.labels, *[labels.to(piece.labels.device)] * (more * each)]),
            piece.groups + more,
            True,
        )

    def _prove(self, piece: Chunk) -> None:
        """The same samples on all ranks, so that all come to the same plan."""
        inputs = piece.inputs.to(self.device)
        labels = None if piece.labels is None else piece.labels.to(self.device)
        for job, engine in zip(self.jobs, self.engines, strict=True):
            with frozen(self.model):
                engine.prove(inputs, functools.partial(self._checked_losses, job.losses, labels))
            reshard(self.model)
            assert engine.plan is not None
            if left := engine.plan.left:
                raise ImportanceError(
                    f"no rule gives the importances of {', '.join(left)}, and without one a sharded model's cannot be "
                    "had; use a model that is not sharded, or set requires_grad_(False) on them"
                )

    def _add(self, piece: Chunk) -> None:
        inputs = piece.inputs.to(self.device)
        labels = None if piece.labels is None else piece.labels.to(self.device)
        for job, engine in zip(self.jobs, self.engines, strict=True):
            losses = functools.partial(self._checked_losses, job.losses, labels)
            engine.add(
                inputs,
                labels,
                piece.groups,
                functools.partial(self._watched, engine, losses),
                functools.partial(self._aim, job, piece.groups),
            )
            reshard(self.model)

    def _aim(self, job: Job, groups: int, losses: Tensor) -> tuple[Tensor, Target]:
        total, target = super()._aim(job, groups, losses)
        weights = target.weights
        if self.real < groups:
            counts = (torch.arange(groups, device=self.device) < self.real).to(self.dtype)[None]  # [1, N]
            weights = counts if weights is None else weights * counts
        whole = WholeSums(self.parameters, target.sums)
        return total, replace(target, sums=whole, weights=weights, release=whole.release)

    def _watched(self, engine: Engine, losses: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """The losses; where they read a parameter that was not read before, which has no sums, the pass fails."""
        assert engine.plan is not None
        if not engine.plan.unused:
            return losses(inputs)
        with Watch(engine.plan, self.parameters, self.gathering) as watch:
            per_sample = losses(inputs)
        if late := watch.read & {*engine.plan.unused}:
            self.failed = ImportanceError(
                f"no rule gives the importances of {', '.join(sorted(late))}, which the first sample did not use"
            )
        return per_sample

    def _checked(self, losses: Tensor) -> Tensor:
        try:
            return super()._checked(losses)
        except ImportanceError as error:
            self.failed = self.failed or error
            return losses


def first_of(piece: Chunk) -> Sample:
    """A copy in memory of its own: a view is sent with all that it is a view of."""
    return piece.inputs[:1].cpu().clone(), None if piece.labels is None else piece.labels[:1].cpu().clone()
