"""Pass over a model that this process holds whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .. import ops
from ..distributed import Ranks
from ..distributed.sampler import sampler_of
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from ..utils.adapter import Adapter, mistakes_named
from ..utils.batches import Chunk, check_loader, chunks
from ..utils.data_errors import sample_named
from ..utils.inputs import BatchInputs
from ..utils.memory import check, needs_of_pass
from ..utils.model import ModelParameters, all_finite
from ..utils.progress import bar
from ..utils.unchanged import Watch
from ..utils.warn import warn_caller
from .checkpoints import PassCheckpoint, Position, saved_on_error, whole_update
from .compiled import Compiled, ShapeCounter
from .engine import Engine
from .fallback import Fallback, dense, slow_layers
from .kept_samples import SeenSamples
from .micro_batches import MicroBatches, check_no_frequencies
from .objective_groups import ObjectiveGroup, warn_of_zeros
from .objectives import Losses, Objective, norm, of_logits
from .options import PassOptions
from .parameter_hooks import ParameterHooks, has_backward_hooks
from .part import Part, count_rest
from .receiver import AccumulationTarget
from .result import Importance
from .rule_check import check_no_batch_statistics
from .sample_checks import FEW, SampleChecks, memory_may_run_out
from .sample_losses import SampleLosses

RANDOM = (
    "the model is random in eval mode: the same samples have other losses each time (F.dropout without "
    "training=self.training, or noise), and so will their importances"
)
HALF_SCALE = 1024.0  # of float16 losses: keeps small gradients from underflow; a power of 2, so nothing is rounded


class LocalPass:
    """One pass over the data, and its sums so far.

    Args:
        model: The model.
        objectives: Whose importances are computed.
        group_size: Samples whose loss is averaged, or "batch".
        options: How the pass runs.

    Raises:
        OutOfMemoryError: The sums do not fit.

    Attributes:
        without_rule: Names of the parameters that went through torch.func or a loop.
        unconnected: Names of the parameters that no loss of the first samples depends on.
        seen: Samples before the current ones, for messages.
        kept_samples: Is given some of the samples, those before a checkpoint too; None to keep none.
        part: What is read of the data; None for all.
        data_samples: All that the loader would have given, where the pass has ended before it.
    """

    def __init__(
        self, model: ModelParameters, objectives: list[Objective], group_size: GroupSize, options: PassOptions
    ) -> None:
        self.model, self.group_size, self.options, self.adapter = model, group_size, options, options.adapter
        objectives = [objective.adapted(self.adapter) for objective in objectives]
        self.objectives = objectives
        self.sample_losses = SampleLosses(objectives, self.adapter, options.amp, model.device)
        self.compiled_model: Any = torch.compile(model.module, dynamic=False) if options.compiled else None
        self.counter = ShapeCounter()
        self.device, self.shapes = model.device, model.shapes
        self.fingerprint = model.fingerprint()  # of now: a forward pass may change weights, until the pass is over
        self.scale = HALF_SCALE if options.amp == torch.float16 else 1.0
        size = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        needs = needs_of_pass(size, len(objectives), options.dtype)
        if options.samples == "auto":
            needs["the sums at the last doubling of the samples"] = needs["the sums"]
        check(self.device, needs)
        self.parameter_hooks = ParameterHooks(model)
        norms = [o for o in objectives if o.power is not None and not o.square]
        hooked = self.parameter_hooks.by_name or has_backward_hooks(model.module)  # which may change it in any way
        together = [norms] if len(norms) > 1 and not hooked else []
        alone = [[o] for o in objectives if not together or o not in norms]
        self.objective_groups = [
            ObjectiveGroup(
                group,
                torch.zeros(len(group), size, dtype=options.dtype, device=self.device),
                of_logits(norm, self.adapter),
            )
            for group in together + alone
        ]
        self.engines = [
            Engine(model, irregular={*self.parameter_hooks.by_name}, compiled=self._compiled(group))
            for group in self.objective_groups
        ]
        self.fallback_engines = [
            Fallback(model, partial(self.sample_losses.traceable, group.losses), self.adapter, self.parameter_hooks)
            for group in self.objective_groups
        ]
        # Of a group larger than a batch: the gradients so far of each objective, [n], and their samples.
        self.group_gradients: list[Tensor] = []
        self.group_reaches: list[set[str]] = []  # parameters that have a gradient in it, by objective
        self.group_samples = 0
        self.micro_batches = MicroBatches(self._add, lambda: [*self.buffers, *self.group_gradients], self.device)
        self.seen = 0
        self.without_rule: set[str] = set()
        self.started = time.perf_counter()
        self.checks = [
            SampleChecks(model, partial(self.sample_losses, group.losses), self.adapter, options.amp is not None)
            for group in self.objective_groups
        ]
        self.batch_losses = torch.zeros(0)  # [B], of the current batch and group of objectives
        self.unconnected: set[str] | None = None
        self.watched: Watch | None = None
        self.kept_samples: SeenSamples | None = None
        self.part: Part | None = None
        self.data_samples: int | None = None

    def _compiled(self, group: ObjectiveGroup) -> Compiled | None:
        if not self.options.compiled:
            return None
        return Compiled(partial(self.sample_losses.traceable, group.losses, self._call), self._checked)

    @property
    def buffers(self) -> list[Tensor]:
        """The sums, [K, n] for each group of objectives."""
        return [group.sums for group in self.objective_groups]

    def watch(self, watch: Watch) -> None:
        """Have the calls watched in which the model runs first, and graphs that it keeps taken from it."""
        self.watched = watch
        self._inspect = watch.first_call(self._inspect)  # type: ignore[method-assign]
        self.micro_batches.attempt = watch.first_call(self.micro_batches.attempt)

    def identity(self) -> dict[str, Any]:
        """What this pass computes, and on what, as plain values: a checkpoint of another one is of no use."""
        return {
            "objectives": [[objective.name for objective in group.objectives] for group in self.objective_groups],
            "group size": self.group_size,
            "dtype": str(self.options.dtype),
            "amp": str(self.options.amp),
            "shapes": [[name, list(shape)] for name, shape in self.shapes.items()],
            "weights (fingerprint)": self.fingerprint,
            **({} if self.options.samples is None else {"samples": self.options.samples}),
            **({} if type(self.adapter) is Adapter else {"adapter": type(self.adapter).__qualname__}),
        }

    def add_up(self, ranks: Ranks) -> None:
        """Put the sums of all ranks in place of this one's."""
        for sums in self.buffers:
            ranks.all_reduce(sums)

    def accumulate(self, loader: Iterable[object], start: Position, checkpoint: PassCheckpoint | None) -> Position:
        """Go through the loader's samples.

        Args:
            loader: Gives batches.
            start: Of a checkpoint; the samples before it are read and not used.
            checkpoint: Keeps the sums; None for none.

        Returns:
            The position at the end.
        """
        check_loader(loader)
        sampler = sampler_of(loader)
        total = len(sampler) if isinstance(sampler, Sized) else None
        labelled = [objective.name for objective in self.objectives if objective.needs_labels]
        position, shown, part = Position(), self.options.progress, self.part
        marks = () if part is None else part.marks()
        source = chunks(loader, self.group_size, self.adapter, with_order=checkpoint is not None, marks=marks)
        with (
            bar(total=total, label="importances", unit="sample", shown=shown) as samples_done,
            saved_on_error(checkpoint),
            self.parameter_hooks.suspended(),
        ):
            for chunk in source:
                if chunk.labels is None and labelled:
                    raise DataError(f"the objective {labelled[0]!r} needs labels and the loader gives none")
                if self.kept_samples is not None:
                    self.kept_samples.add(chunk, position.samples)
                ahead = position.after(chunk)
                if part is not None:
                    part.labels.add(chunk.labels)
                if ahead.samples > start.samples:
                    if position.samples < start.samples:
                        raise DataError("the loader's batches are not those of the pass that the checkpoint is of")
                    self.seen = position.samples
                    if self.unconnected is None:
                        with mistakes_named(chunk.inputs), sample_named(chunk.labels, position.samples):
                            self._inspect(chunk)
                    named = sample_named(chunk.labels, position.samples)
                    with named, mistakes_named(chunk.inputs), whole_update(checkpoint):
                        if part is not None:
                            part.before(position, self.buffers)
                        self.micro_batches.add(chunk)
                        if checkpoint is not None and chunk.closes:
                            checkpoint.reached(ahead)
                elif ahead.samples == start.samples and ahead.order != start.order:
                    raise DataError("the loader gives other samples, or another order, than before the checkpoint")
                position = ahead
                samples_done.update(len(chunk.inputs))
                if part is not None and position.samples >= start.samples and part.ends(position, self.buffers):
                    self.data_samples = count_rest(loader, source, position.samples)
                    break
            if self.group_gradients:  # the last group is smaller than the others, and was not known to be the last
                self._close(self.group_samples)
                position = replace(position, terms=position.terms + 1)
        if position.samples < start.samples:
            raise DataError(f"the loader gave {position.samples} samples, the checkpoint had {start.samples} done")
        return position

    def results(self, position: Position) -> list[Importance]:
        """One Importance for each objective.

        Raises:
            ImportanceError: One is not finite; the parameter is named.
        """
        results = {}
        without_rule = tuple(name for name in self.shapes if name in self.without_rule)
        for group in self.objective_groups:
            for objective, sums in zip(group.objectives, group.sums, strict=True):
                result = Importance(
                    sums,
                    self.shapes,
                    position.samples,
                    position.terms,
                    objective.name,
                    self.group_size,
                    self.fingerprint,
                    without_rule,
                    None if self.data_samples == position.samples else self.data_samples,
                )
                for name, part in result.parts():
                    if not all_finite(sums[part]):
                        advice = "; amp=torch.bfloat16 has more range" if self.options.amp == torch.float16 else ""
                        raise ImportanceError(
                            f"the importances of parameter {name!r} are not finite: its gradient overflowed{advice}"
                        )
                results[id(objective)] = result
        warn_of_zeros(self.objective_groups, self.shapes, self.unconnected or set())
        return [results[id(objective)] for objective in self.objectives]

    @property
    def slow_layers(self) -> str | None:
        """What to say of the time that parameters without a rule took; None where it was little."""
        seconds = sum(fallback.seconds for fallback in self.fallback_engines)
        return slow_layers(self.model, self.without_rule, seconds, time.perf_counter() - self.started)

    def _inspect(self, chunk: Chunk) -> None:
        """Check the model on the first samples."""
        if self.group_size != "batch":
            check_no_batch_statistics(self.model.module)
        few = slice(FEW)
        inputs = chunk.inputs[few].to(self.device)
        labels = None if chunk.labels is None else chunk.labels[few].to(self.device)
        for samples in self.checks:
            with memory_may_run_out():
                samples.inspect(inputs, labels, may_mix=self.group_size == "batch")
            if self.watched is not None:
                self.sample_losses.before_call = self.watched.kept_graphs() or self.sample_losses.before_call
        if any(samples.random for samples in self.checks):
            warn_caller(RANDOM)
        reached = [samples.connected for samples in self.checks]
        self.unconnected = set(self.shapes).difference(*(self.shapes if names is None else names for names in reached))

    def _add(self, chunk: Chunk) -> None:
        inputs = chunk.inputs.to(self.device)
        labels = None if chunk.labels is None else chunk.labels.to(self.device)
        if self.options.compiled:
            self.sample_losses.check_known(labels)
        self.parameter_hooks.paused = self.micro_batches.measuring
        if chunk.groups == 1:
            batch_losses = self._add_one_group(inputs, labels, chunk.closes)
            for index, losses in enumerate(batch_losses):  # only now: a forward pass may write to weights
                self._compare(inputs, labels, index, losses)
        else:
            self._add_groups(inputs, labels, chunk.groups)

    def _compare(self, inputs: BatchInputs, labels: Tensor | None, index: int, losses: Tensor) -> None:
        """Check that the samples of a batch do not mix, for the group of objectives with that index."""
        if self.group_size != "batch" and not self.micro_batches.measuring:
            self.checks[index].compare(inputs, labels, losses)

    def _add_groups(self, inputs: BatchInputs, labels: Tensor | None, groups: int) -> None:
        engines = zip(self.objective_groups, self.engines, self.fallback_engines, strict=True)
        for index, (group, engine, fallback) in enumerate(engines):
            target, without_rule = engine.add(
                inputs,
                labels,
                groups,
                partial(self._checked_losses, group.losses, labels),
                partial(self._make_target, group, groups),
            )
            self._compare(inputs, labels, index, self.batch_losses)
            if without_rule:
                fallback.add(without_rule, inputs, labels, groups, self.scale, target)
                self.without_rule.update(without_rule)

    def _make_target(
        self, objective_group: ObjectiveGroup, groups: int, losses: Tensor
    ) -> tuple[Tensor, AccumulationTarget]:
        self.batch_losses = losses.detach()
        total = losses.sum() * (self.scale * groups / len(losses))
        return total, objective_group.target(losses, groups, self.scale, self.shapes)

    def _add_one_group(self, inputs: BatchInputs, labels: Tensor | None, closes: bool) -> list[Tensor]:
        """A group that is all there is, or a part of a larger one: its gradient is the ordinary one.

        Returns:
            The losses [B] of each group of objectives that are to be compared.
        """
        parameters, dtype = list(self.model.parameters.values()), self.options.dtype
        objectives = [objective for group in self.objective_groups for objective in group.objectives]
        rows = [row for group in self.objective_groups for row in group.sums]
        compiled = self.compiled_model is not None and self.counter.is_frequent(inputs)
        model = self.compiled_model if compiled else self.model.wrapped
        outputs = self.sample_losses.outputs(partial(self.adapter.call, model), inputs)
        self.sample_losses.check_labels(outputs, labels)
        shaped = self.sample_losses.shaped
        if self.group_gradients or not closes:
            check_no_frequencies(self.model.module)
        if not self.group_gradients:
            self.group_gradients = [] if closes else [torch.zeros_like(row) for row in rows]
            self.group_reaches = [set() for _ in rows]
        losses_of: dict[int, Tensor] = {}
        for i, (objective, row) in enumerate(zip(objectives, rows, strict=True)):
            losses = self._checked(shaped(objective.losses(outputs, labels), inputs))
            losses_of[id(objective)] = losses.detach()
            loss = (losses.sum() if self.group_gradients else losses.mean()) * self.scale
            if not loss.requires_grad:  # the first samples' losses did
                continue
            scaled = torch.autograd.grad(loss, parameters, retain_graph=i + 1 < len(rows), allow_unused=True)
            self.group_reaches[i].update(name for name, g in zip(self.shapes, scaled, strict=True) if g is not None)
            gradients = [
                p.new_zeros(p.shape, dtype=dtype) if g is None else dense(g).to(dtype)
                for p, g in zip(parameters, scaled, strict=True)
            ]
            if self.scale != 1:
                gradients = [gradient / self.scale for gradient in gradients]
            if self.group_gradients:
                sizes = [gradient.numel() for gradient in gradients]
                for part, gradient in zip(self.group_gradients[i].split(sizes), gradients, strict=True):
                    part += gradient.reshape(-1)
            else:
                self._hook(self.group_reaches[i], gradients)
                ops.accumulate(row, gradients, square=objective.square)
        if self.group_gradients and closes:
            self._close(self.group_samples + len(inputs))
        elif self.group_gradients:
            self.group_samples += len(inputs)
        if self.group_size == "batch":
            return []
        with torch.no_grad():
            return [
                losses_of[id(group.objectives[0])] if len(group.objectives) == 1 else group.losses(outputs, labels)
                for group in self.objective_groups
            ]

    def _close(self, samples: int) -> None:
        """The group of so many samples, whose parts were summed up, is complete."""
        squares = [objective.square for group in self.objective_groups for objective in group.objectives]
        rows = [row for group in self.objective_groups for row in group.sums]
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        for i, (row, gradient, square) in enumerate(zip(rows, self.group_gradients, squares, strict=True)):
            parts = gradient.div_(samples).split(sizes)
            gradients = [part.view(shape) for part, shape in zip(parts, self.shapes.values(), strict=True)]
            if self._hook(self.group_reaches[i], gradients):
                ops.accumulate(row, gradients, square=square)
            else:
                ops.accumulate(row, [gradient], square=square)
        self.group_gradients, self.group_samples = [], 0

    def _hook(self, reached: set[str], gradients: list[Tensor]) -> bool:
        """Let the parameters' hooks change the gradients of a group that is complete; whether there are any.

        Args:
            reached: The parameters that have a gradient.
            gradients: By parameter; those with hooks are replaced.
        """
        for place, name in enumerate(self.shapes):
            if name in self.parameter_hooks.by_name and name in reached:
                gradients[place] = self.parameter_hooks.apply(name, gradients[place])
        return bool(self.parameter_hooks.by_name)

    def _call(self, inputs: BatchInputs) -> Any:
        return self.adapter.call(self.model.module, inputs)

    def _checked_losses(self, losses: Losses, labels: Tensor | None, inputs: BatchInputs) -> Tensor:
        """Finite ones of the current batch, or of its first samples."""
        labels = None if labels is None else labels[: len(inputs)]
        return self._checked(self.sample_losses(losses, self._call, inputs, labels))

    def _checked(self, losses: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction(), _disable_current_modes():  # else the model would seem to read values
            finite = torch.isfinite(losses.detach())
            no_fault = bool(finite.all())
        if not no_fault:
            k = int(finite.logical_not().nonzero()[0])
            sample = self.seen + self.micro_batches.done + k
            raise ImportanceError(f"the loss of sample {sample} is {losses[k].item()}; look for bad inputs or weights")
        return losses
