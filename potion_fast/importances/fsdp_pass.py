"""Pass over a model that FSDP2 has sharded: all ranks in step, each left with the importances of its own shards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Shard
from typing_extensions import override

from ..distributed import Ranks
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from ..utils.batches import Chunk, check_loader, chunks
from ..utils.inputs import BatchInputs, concatenated
from ..utils.model import ModelParameters
from ..utils.progress import bar
from .checkpoints import PassCheckpoint, Position
from .engine import Engine
from .fsdp_gather import GatheredParameters
from .hooks import frozen
from .local_pass import LocalPass
from .objective_groups import ObjectiveGroup
from .objectives import Objective
from .options import PassOptions
from .part import count_rest
from .read_tracker import ReadTracker
from .receiver import AccumulationTarget
from .rule_check import SAMPLES

Sample = tuple[BatchInputs, Tensor | None]  # input [1, ...], label [1, ...]


class WholeSums(dict[str, Tensor]):
    """Sums for whole parameters over this rank's batch, made on request: name -> [K, *shape].

    Once complete they are summed over all ranks, each keeping its shard's (a reduce-scatter), and freed: so the
    pass holds, in addition to the shards' sums, those of one layer.

    Args:
        parameters: By name.
        shards: The sums of this rank's shards, [K, *shape of the shard].
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], shards: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parameters, self.shards = parameters, shards

    def __missing__(self, name: str) -> Tensor:
        shard = self.shards[name]  # [K, *shape of the shard]
        self[name] = shard.new_zeros(len(shard), *self.parameters[name].shape)
        return self[name]

    def release(self, names: Iterable[str]) -> None:
        """Add the sums of some parameters to those of the shards, on all ranks, and forget them."""
        for name in names:
            mesh, placements = self.parameters[name].device_mesh, self.parameters[name].placements  # type: ignore[attr-defined]
            parts = DTensor.from_local(self.pop(name), mesh, [Partial()] * mesh.ndim, run_check=False)
            moved = [Shard(p.dim + 1) if isinstance(p, Shard) else p for p in placements]  # dimension 0 is K
            self.shards[name].add_(parts.redistribute(placements=moved).to_local())


class ShardedPass(LocalPass):
    """A pass in which every rank runs as many batches as the others, as all take part in gathering parameters.

    One that has no samples left continues with a sample of another rank, whose weight is 0. What goes wrong in the
    middle of a batch is raised before the next, on all ranks.

    Args:
        model: Sharded by FSDP2.
        objectives: See `LocalPass`.
        group_size: See `LocalPass`.
        options: See `LocalPass`.
        ranks: Those that give samples.

    Raises:
        ImportanceError: The pass is to be compiled, or the model is sharded among other ranks.
        ModelError: Parameters are not all sharded, or not among the same ranks.
    """

    def __init__(
        self,
        model: ModelParameters,
        objectives: list[Objective],
        group_size: GroupSize,
        options: PassOptions,
        ranks: Ranks,
    ) -> None:
        _ = model.shard_ranks  # raises unless all are sharded, among the same ranks
        if options.samples == "auto":
            raise ImportanceError('samples="auto" is not for a model that FSDP2 has sharded; give a number of samples')
        if options.compiled:
            raise ImportanceError("a pass over a model that FSDP2 has sharded is not compiled; leave out compiled")
        holders = next(iter(model.parameters.values())).device_mesh.size()  # type: ignore[attr-defined]
        if holders != ranks.size:
            raise ImportanceError(
                f"FSDP2 has sharded the model among {holders} ranks, and {ranks.size} give samples; a pass needs all "
                "of them, each with its share: use a ShareSampler"
            )
        super().__init__(model, objectives, group_size, options)
        if hooked := ", ".join(self.parameter_hooks.by_name):
            raise ImportanceError(
                f"{hooked} have gradient hooks (register_hook), which a pass over a sharded model does not call; "
                "remove them for the pass, or use a model that is not sharded"
            )
        self.ranks, self.gathered = ranks, GatheredParameters.of(model)
        self.counted = 0  # groups of the current batch whose weight is not 0
        self.failed: Exception | None = None
        for engine in self.engines:
            engine.gathered = True

    @override
    def identity(self) -> dict[str, Any]:
        whole = {"shapes": [[name, list(p.shape)] for name, p in self.model.parameters.items()]}
        return {**super().identity(), **whole, "weights (fingerprint)": "of shards"}

    @override
    def add_up(self, ranks: Ranks) -> None:
        """Nothing: sums were added up layer by layer."""

    @override
    def accumulate(self, loader: Iterable[object], start: Position, checkpoint: PassCheckpoint | None) -> Position:
        check_loader(loader)
        position, part = Position(), self.part
        marks = () if part is None else part.marks()
        source = chunks(loader, self.group_size, self.adapter, marks=marks)
        fill: Sample | None = None
        with bar(label="importances", unit="sample", shown=self.options.progress) as samples_done:
            while True:
                with self.ranks.raising_together():
                    chunk = self._next(source)
                first = None if chunk is None else first_of(chunk)
                firsts = [sample for sample in self.ranks.all_gather(first) if sample is not None]
                if not firsts:
                    return position
                if fill is None:
                    fill = firsts[0]
                    self._verify(self._filled(None, fill))
                    with self.ranks.raising_together():
                        self.sample_losses.check_known(None if chunk is None else chunk.labels)
                self.seen = position.samples
                self._add(self._filled(chunk, fill))
                if chunk is not None:
                    position = position.after(chunk)
                    samples_done.update(len(chunk.inputs))
                    if part is not None:
                        part.labels.add(chunk.labels)
                    if part is not None and part.ends(position, self.buffers):
                        self.data_samples, source = count_rest(loader, source, position.samples), iter(())

    def _next(self, source: Iterator[Chunk]) -> Chunk | None:
        if self.failed is not None:
            raise self.failed
        chunk = next(source, None)
        if chunk is not None and not chunk.closes:
            raise ImportanceError(
                "of a sharded model, a batch must hold a whole group; let the loader give larger batches"
            )
        labelled = [objective.name for objective in self.objectives if objective.needs_labels]
        if chunk is not None and chunk.labels is None and labelled:
            raise DataError(f"the objective {labelled[0]!r} needs labels and the loader gives none")
        self.sample_losses.check_known(None if chunk is None else chunk.labels)
        return chunk

    def _filled(self, chunk: Chunk | None, fill: Sample) -> Chunk:
        """The chunk, with groups of weight 0 at its end until it has the samples that a check of the rules needs."""
        inputs, labels = fill
        if chunk is None:
            chunk = Chunk(inputs[:0], None if labels is None else labels[:0], 0, True)
        self.counted = chunk.groups
        group_size = len(chunk.inputs) // chunk.groups if chunk.groups else 1
        more = max(0, -(-(SAMPLES - len(chunk.inputs)) // group_size))
        if not more:
            return chunk
        return Chunk(
            concatenated([chunk.inputs, *[inputs.to(chunk.inputs.device)] * (more * group_size)]),
            None
            if chunk.labels is None or labels is None
            else torch.cat([chunk.labels, *[labels.to(chunk.labels.device)] * (more * group_size)]),
            chunk.groups + more,
            True,
        )

    def _verify(self, chunk: Chunk) -> None:
        """The same samples on all ranks, so that all come to the same plan."""
        inputs = chunk.inputs.to(self.device)
        labels = None if chunk.labels is None else chunk.labels.to(self.device)
        for objective_group, engine in zip(self.objective_groups, self.engines, strict=True):
            with frozen(self.model.module):
                engine.verify(inputs, functools.partial(self._checked_losses, objective_group.losses, labels))
            self.model.reshard()
            assert engine.plan is not None
            if without_rule := engine.plan.without_rule:
                raise ImportanceError(
                    f"no rule gives the importances of {', '.join(without_rule)}, and without one a sharded model's "
                    "cannot be had; use a model that is not sharded, or set requires_grad_(False) on them"
                )

    @override
    def _add(self, chunk: Chunk) -> None:
        inputs = chunk.inputs.to(self.device)
        labels = None if chunk.labels is None else chunk.labels.to(self.device)
        for objective_group, engine in zip(self.objective_groups, self.engines, strict=True):
            losses = functools.partial(self._checked_losses, objective_group.losses, labels)
            engine.add(
                inputs,
                labels,
                chunk.groups,
                functools.partial(self._watched, engine, losses),
                functools.partial(self._make_target, objective_group, chunk.groups),
            )
            self.model.reshard()

    @override
    def _make_target(
        self, objective_group: ObjectiveGroup, groups: int, losses: Tensor
    ) -> tuple[Tensor, AccumulationTarget]:
        total, target = super()._make_target(objective_group, groups, losses)
        weights = target.weights
        if self.counted < groups:
            counts = (torch.arange(groups, device=self.device) < self.counted).to(self.options.dtype)[None]  # [1, N]
            weights = counts if weights is None else weights * counts
        whole = WholeSums(self.model.parameters, target.sums)
        return total, replace(target, sums=whole, weights=weights, release=whole.release)

    def _watched(self, engine: Engine, losses: Callable[[BatchInputs], Tensor], inputs: BatchInputs) -> Tensor:
        """The losses; where they read a parameter that was not read before, which has no sums, the pass fails."""
        assert engine.plan is not None
        if not engine.plan.unused:
            return losses(inputs)
        with ReadTracker(engine.plan, self.model, self.gathered) as reads:
            per_sample = losses(inputs)
        if newly_used := reads.read & {*engine.plan.unused}:
            self.failed = ImportanceError(
                f"no rule gives the importances of {', '.join(sorted(newly_used))}, which the first sample did not use"
            )
        return per_sample

    @override
    def _checked(self, losses: Tensor) -> Tensor:
        try:
            return super()._checked(losses)
        except ImportanceError as error:
            self.failed = self.failed or error
            return losses


def first_of(chunk: Chunk) -> Sample:
    """A copy of its first sample in memory of its own: a view is sent with all that it is a view of."""
    return chunk.inputs[:1].cpu().clone(), None if chunk.labels is None else chunk.labels[:1].cpu().clone()
