"""The pass over the data: the gradient of every group of samples, its absolute value or square summed up."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from .. import ops
from ..batches import Piece, pieces, sampler_of
from ..distributed import Group, Ranks, ranks_for, unwrapped
from ..errors import DataError, ImportanceError
from ..memory import check, needs_of_pass
from ..modes import GroupSize
from ..modules import all_finite, checked_parameters, evaluating, fingerprint, uncompiled
from ..progress import bar
from ..shards import local, units
from .checkpoints import Keeper, Position, keeping, whole_batches
from .compiled import Compiled, Sizes
from .engine import Engine, Target
from .fallback import Fallback
from .micro_batches import MicroBatches
from .objectives import Losses, Objective, norm, resolve
from .sharing import summed
from .stored import Importance

Spec = str | Losses | Objective
HALF_SCALE = 1024.0  # of float16 losses: keeps small gradients from underflow; a power of 2, so nothing is rounded


@overload
def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: Spec | None = None,
    *,
    w: float | None = None,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    progress: bool = False,
) -> Importance: ...


@overload
def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...],
    *,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    progress: bool = False,
) -> list[Importance]: ...


def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: Spec | list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...] | None = None,
    *,
    w: float | None = None,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    progress: bool = False,
) -> Importance | list[Importance]:
    """Importance of every trainable parameter over the samples of a loader (paper A, eq. 3 and 4; eq. 1 for SSD).

    model       any nn.Module with its parameters on one device; it runs in eval mode and is left as it was
    loader      batches (input [B, ...], label [B], ...); what follows the label is ignored, and objectives that need
                no labels take batches without them
    objective   "xlf" (default), "lf", "ssd", a registered name, an Objective, or a callable
                (outputs [B, ...], labels [B]) -> losses [B] whose |gradient| is summed. A list of these, and of
                exponents w, gives a list of importances from one pass over the data
    w           instead of an objective: the exponent of ‖f(x)‖₂ in eq. 4
    group_size  the loss is averaged over groups of this many samples in the loader's order, whatever its batch size;
                1 is the equations as printed, "batch" the loader's batches, what the public code does. The last group
                may be smaller and weighs as much as the others
    dtype       float32 or float64, of the sums, and of the products of linear layers and convolutions that go into them
    amp         bfloat16 or float16: run the model under torch.autocast. The result differs by that precision's rounding
    compiled    let torch.compile fuse what lies between the layers, for long passes: it takes a minute or so, once the
                third batch of a size has come, and the memory of all layers' gradients at once. The result differs by
                rounding
    group       the ranks of torch.distributed whose loaders each give their share of the samples; the sums are then of
                all of them, with the same bits on every rank. False: this loader gives all. By default its sampler
                says so, see `distributed.ShareSampler`; in a group of several ranks another sampler is an error
    checkpoint  file that keeps what was done, every `checkpoint_seconds` seconds and where the pass is interrupted;
                it is removed when the pass is complete
    resume      go on from the checkpoint where there is one. On the same samples in the same order the result has the
                same bits as that of an unbroken pass. With a ShareSampler each rank has a file, PATH.rank0 and so on,
                in a folder that all ranks see, and any number of ranks goes on from them, no sample being taken twice
    progress    show a progress bar, with samples per second and the time left

    Exact, at the price of one ordinary forward and backward pass per batch: each layer's gradients are summed per group
    as they come by, in the rules of `potion_fast.importances.rules`. All ‖f(x)‖₂^w share one backward pass. Parameters
    that no rule is proved right for go through torch.func or a loop over groups, also exact; `Importance.fallback`
    names them.

    On several ranks a group of samples is of one rank; a ShareSampler cuts shares between the groups of one process.
    DistributedDataParallel and torch.compile's wrapper are looked through. A rank sends 2 (1 - 1 / ranks) n sums to the
    others, once, at the end. Of a model that FSDP2 has sharded (`fully_shard`) each rank gets the importances of its
    own shards, see `sharded`.
    An error on one rank is raised on all of them, when they have come to the end of their shares.

    A batch that does not fit into free memory goes through the model in parts, see `MicroBatches`.

    Raises ImportanceError (no trainable parameter, non-finite loss or importance with its parameter's name, an
    objective of the wrong shape, samples that mix), ModelError (weights not finite, or on several devices), DataError
    (empty loader, labels missing, batches that are not (input, label), another order than the checkpoint's), FileError,
    OutOfMemoryError (the sums, or a single sample, do not fit).
    """
    several = isinstance(objective, (list, tuple))
    if several and w is not None:
        raise ImportanceError("put the exponent w into the list of objectives")
    chosen = (
        [resolve_one(spec) for spec in objective] if isinstance(objective, (list, tuple)) else [resolve(objective, w)]
    )
    if not chosen:
        raise ImportanceError("the list of objectives is empty")
    if group_size != "batch" and (not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1):
        raise ImportanceError(f'group_size is a whole number of at least 1 or "batch", not {group_size!r}')
    if dtype not in (torch.float32, torch.float64):
        raise ImportanceError(f"importances are float32 or float64, not {dtype}")
    if amp not in (None, torch.bfloat16, torch.float16):
        raise ImportanceError(f"amp is torch.bfloat16, torch.float16 or None, not {amp}")
    if resume and checkpoint is None:
        raise ImportanceError("resume=True needs the file to go on from: checkpoint=PATH")

    model, ranks = unwrapped(model), ranks_for(loader, group)
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        with ranks.failing_together():
            settings = Settings(chosen, group_size, dtype, amp, compiled)
            run = pass_of(model, checked_parameters(model), settings, ranks)
        position, keeper = summed(run, loader, ranks, checkpoint, checkpoint_seconds, resume, progress)
        with ranks.failing_together():
            results = run.results(position)
    if keeper is not None:
        keeper.remove()
    return results if several else results[0]


@dataclass(frozen=True)
class Settings:
    """What a pass computes, as `importance` is told it."""

    objectives: list[Objective]
    group_size: GroupSize
    dtype: torch.dtype
    amp: torch.dtype | None
    compiled: bool


def pass_of(model: nn.Module, parameters: dict[str, nn.Parameter], settings: Settings, ranks: Ranks) -> Pass:
    if not units(model):
        return Pass(model, parameters, settings)
    from .sharded import ShardedPass  # what it imports takes a second

    return ShardedPass(model, parameters, settings, ranks)


def resolve_one(spec: Spec | float) -> Objective:
    """An entry of a list of objectives; a number is an exponent w."""
    return resolve(None, float(spec)) if isinstance(spec, (int, float)) else resolve(spec, None)


@dataclass
class Job:
    """Objectives whose gradients come from one backward pass, and the row of the sums of each.

    With several objectives these are ‖f(x)‖₂^w, and the pass differentiates ‖f(x)‖₂: |∇‖f‖^w| = w ‖f‖^(w−1) |∇‖f‖|.
    """

    objectives: list[Objective]
    sums: Tensor  # [K, n]

    @property
    def losses(self) -> Losses:
        return self.objectives[0].losses if len(self.objectives) == 1 else norm

    def target(self, losses: Tensor, groups: int, scale: float, shapes: Mapping[str, torch.Size]) -> Target:
        """Where the gradients of scale · Σ losses [B] / (samples per group) go, with that scale taken out again."""
        square, views = self.objectives[0].square, self.views(shapes)
        if len(self.objectives) == 1 and scale == 1:
            return Target(views, square, None, None)
        factors = torch.full(
            (len(self.objectives), len(losses)), 1 / scale, dtype=self.sums.dtype, device=losses.device
        )
        if len(self.objectives) > 1:
            length = losses.detach().to(self.sums.dtype)
            for factor, objective in zip(factors, self.objectives, strict=True):
                w = objective.power
                assert w is not None
                # Where f(x) = 0 its norm has no gradient, and the sample contributes 0 for any w.
                factor *= torch.where(length > 0, w * torch.where(length > 0, length, 1.0) ** (w - 1), 0.0)
        if groups == len(losses):  # a factor of a single gradient can as well be multiplied after |·| or ·²
            return Target(views, square, factors.square() if square else factors, None)
        return Target(views, square, None, factors)

    def views(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """name -> [K, *shape], views of the sums."""
        parts = self.sums.split([shape.numel() for shape in shapes.values()], dim=1)
        return {name: part.view(len(part), *shapes[name]) for name, part in zip(shapes, parts, strict=True)}


class Pass:
    """One pass over the data: what it computes, and what it has summed up."""

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], settings: Settings) -> None:
        self.model, self.parameters = uncompiled(model), parameters
        self.given = model  # called where nothing hooks into it
        self.compiled: Any = torch.compile(self.model, dynamic=False) if settings.compiled else None
        self.sizes = Sizes()
        self.objectives, self.group_size = settings.objectives, settings.group_size
        self.dtype, self.amp = settings.dtype, settings.amp
        self.device = next(iter(parameters.values())).device
        self.scale = HALF_SCALE if self.amp == torch.float16 else 1.0
        self.shapes = {name: local(parameter).shape for name, parameter in parameters.items()}
        size = sum(shape.numel() for shape in self.shapes.values())
        norms = [o for o in self.objectives if o.power is not None and not o.square]
        together = [norms] if len(norms) > 1 else []
        alone = [[o] for o in self.objectives if not together or o not in norms]
        check(self.device, needs_of_pass(size, len(self.objectives), self.dtype))
        self.jobs = [
            Job(some, torch.zeros(len(some), size, dtype=self.dtype, device=self.device)) for some in together + alone
        ]
        self.engines = [
            Engine(
                self.model,
                parameters,
                compiled=Compiled(functools.partial(self._losses, job.losses, self.model))
                if settings.compiled
                else None,
            )
            for job in self.jobs
        ]
        self.fallbacks = [
            Fallback(self.model, parameters, functools.partial(self._losses, job.losses)) for job in self.jobs
        ]
        self.part: list[Tensor] = []  # of a group larger than a batch: the gradients so far of each objective, [n]
        self.part_samples = 0
        self.micro_batches = MicroBatches(self._add, lambda: [*self.buffers, *self.part], self.device)
        self.seen = 0  # samples before those at hand, for messages
        self.fallback: set[str] = set()  # parameters that went through torch.func or a loop

    @property
    def buffers(self) -> list[Tensor]:
        return [job.sums for job in self.jobs]

    def what(self) -> dict[str, Any]:
        """What this pass computes, and on what: a checkpoint of another one is of no use."""
        return {
            "objectives": [[objective.name for objective in job.objectives] for job in self.jobs],
            "group size": self.group_size,
            "dtype": str(self.dtype),
            "amp": str(self.amp),
            "shapes": [[name, list(shape)] for name, shape in self.shapes.items()],
            "weights (fingerprint)": fingerprint(self.model),
        }

    def add_up(self, ranks: Ranks) -> None:
        """The sums of all ranks in place of this one's."""
        for sums in self.buffers:
            ranks.sum(sums)

    def over(self, loader: Iterable[object], start: Position, keeper: Keeper | None, progress: bool) -> Position:
        """Go through the loader's samples, those before `start` unused; returns the position at the end."""
        sampler = sampler_of(loader)
        total = len(sampler) if isinstance(sampler, Sized) else None
        labelled = [objective.name for objective in self.objectives if objective.needs_labels]
        position = Position()
        with bar(total=total, what="importances", unit="sample", shown=progress) as samples_done, keeping(keeper):
            for piece in pieces(loader, self.group_size):
                if piece.labels is None and labelled:
                    raise DataError(f"the objective {labelled[0]!r} needs labels and the loader gives none")
                ahead = position.after(piece, told=keeper is not None)
                if ahead.samples > start.samples:
                    if position.samples < start.samples:
                        raise DataError("the loader's batches are not those of the pass that the checkpoint is of")
                    self.seen = position.samples
                    with whole_batches(keeper):
                        self.micro_batches.add(piece)
                        if keeper is not None and piece.closes:
                            keeper.reached(ahead)
                elif ahead.samples == start.samples and ahead.order != start.order:
                    raise DataError("the loader gives other samples, or another order, than before the checkpoint")
                position = ahead
                samples_done.update(len(piece.inputs))
            if self.part:  # the last group is smaller than the others, and was not known to be the last
                self._close(self.part_samples)
                position = replace(position, terms=position.terms + 1)
        if position.samples < start.samples:
            raise DataError(f"the loader gave {position.samples} samples, the checkpoint had {start.samples} done")
        return position

    def results(self, position: Position) -> list[Importance]:
        """One Importance for each objective. Raises ImportanceError where one is not finite."""
        found = {}
        shapes = {name: tuple(shape) for name, shape in self.shapes.items()}
        mark, without_rule = fingerprint(self.model), tuple(name for name in self.shapes if name in self.fallback)
        for job in self.jobs:
            for objective, sums in zip(job.objectives, job.sums, strict=True):
                result = Importance(
                    sums, shapes, position.samples, position.terms, objective.name, self.group_size, mark, without_rule
                )
                for name, part in result.parts():
                    if not all_finite(sums[part]):
                        advice = "; amp=torch.bfloat16 has more range" if self.amp == torch.float16 else ""
                        raise ImportanceError(
                            f"the importances of parameter {name!r} are not finite: its gradient overflowed{advice}"
                        )
                found[id(objective)] = result
        return [found[id(objective)] for objective in self.objectives]

    def _add(self, piece: Piece) -> None:
        inputs = piece.inputs.to(self.device)
        labels = None if piece.labels is None else piece.labels.to(self.device)
        if piece.groups == 1:
            self._add_one_group(inputs, labels, piece.closes)
            return
        for job, engine, fallback in zip(self.jobs, self.engines, self.fallbacks, strict=True):
            target, left = engine.add(
                inputs,
                labels,
                piece.groups,
                functools.partial(self._checked_losses, job.losses, labels),
                functools.partial(self._aim, job, piece.groups),
            )
            if left:
                fallback.add(left, inputs, labels, piece.groups, self.scale, target)
                self.fallback.update(left)

    def _aim(self, job: Job, groups: int, losses: Tensor) -> tuple[Tensor, Target]:
        total = self._checked(losses).sum() * (self.scale * groups / len(losses))
        return total, job.target(losses, groups, self.scale, self.shapes)

    def _add_one_group(self, inputs: Tensor, labels: Tensor | None, closes: bool) -> None:
        """A group that is all there is, or a part of a larger one: its gradient is the ordinary one."""
        parameters = list(self.parameters.values())
        objectives = [objective for job in self.jobs for objective in job.objectives]
        rows = [row for job in self.jobs for row in job.sums]
        compiled = self.compiled is not None and self.sizes.often(inputs)
        outputs = self._outputs(self.compiled if compiled else self.given, inputs)
        if not self.part:
            self.part = [] if closes else [torch.zeros_like(row) for row in rows]
        for i, (objective, row) in enumerate(zip(objectives, rows, strict=True)):
            losses = self._checked(self._shaped(objective.losses(outputs, labels), inputs))
            loss = (losses.sum() if self.part else losses.mean()) * self.scale
            found = torch.autograd.grad(
                loss, parameters, retain_graph=i + 1 < len(rows), allow_unused=True, materialize_grads=True
            )
            gradients = [g.to(self.dtype) if self.scale == 1 else g.to(self.dtype) / self.scale for g in found]
            if self.part:
                sizes = [gradient.numel() for gradient in gradients]
                for part, gradient in zip(self.part[i].split(sizes), gradients, strict=True):
                    part += gradient.reshape(-1)
            else:
                ops.accumulate(row, gradients, square=objective.square)
        if self.part and closes:
            self._close(self.part_samples + len(inputs))
        elif self.part:
            self.part_samples += len(inputs)

    def _close(self, samples: int) -> None:
        """The group of so many samples, whose parts were summed up, is complete."""
        squares = [objective.square for job in self.jobs for objective in job.objectives]
        for row, gradient, square in zip((r for job in self.jobs for r in job.sums), self.part, squares, strict=True):
            ops.accumulate(row, [gradient.div_(samples)], square=square)
        self.part, self.part_samples = [], 0

    def _outputs(self, model: Callable[[Tensor], Any], inputs: Tensor) -> Any:
        with torch.autocast(self.device.type, dtype=self.amp) if self.amp is not None else nullcontext():
            outputs = model(inputs)
        half = isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.float() if half else outputs

    def _losses(self, losses: Losses, model: Callable[[Tensor], Any], inputs: Tensor, labels: Tensor | None) -> Tensor:
        """[B, ...] -> [B]; also under vmap, so nothing is looked at."""
        return self._shaped(losses(self._outputs(model, inputs), labels), inputs)

    def _checked_losses(self, losses: Losses, labels: Tensor | None, inputs: Tensor) -> Tensor:
        """The same of the batch at hand, or of its first samples."""
        labels = None if labels is None else labels[: len(inputs)]
        return self._checked(self._losses(losses, self.model, inputs, labels))

    def _shaped(self, losses: Tensor, inputs: Tensor) -> Tensor:
        if losses.shape != inputs.shape[:1]:
            names = ", ".join(repr(objective.name) for objective in self.objectives)
            raise ImportanceError(
                f"objective {names} gave losses of shape {list(losses.shape)} for {len(inputs)} samples; "
                "it must give one per sample"
            )
        return losses

    def _checked(self, losses: Tensor) -> Tensor:
        finite = torch.isfinite(losses)
        if not finite.all():
            k = int(finite.logical_not().nonzero()[0])
            sample = self.seen + self.micro_batches.done + k
            raise ImportanceError(f"the loss of sample {sample} is {losses[k].item()}; look for bad inputs or weights")
        return losses
