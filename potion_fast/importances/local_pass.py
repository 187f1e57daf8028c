"""A pass over a model that this process holds whole: what it computes, and what it has summed up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..distributed import Ranks, unwrap_compile
from ..distributed.fsdp import local
from ..distributed.sampler import sampler_of
from ..errors import DataError, ImportanceError
from ..modes import GroupSize
from ..utils.batches import Chunk, pieces
from ..utils.memory import check, needs_of_pass
from ..utils.model import all_finite, fingerprint
from ..utils.progress import bar
from .checkpoints import PassCheckpoint, Position, keeping, whole_batches
from .compiled import Compiled, Sizes
from .engine import Engine, Target
from .fallback import Fallback
from .micro_batches import MicroBatches
from .objectives import Losses, Objective, norm
from .options import PassOptions
from .result import Importance

HALF_SCALE = 1024.0  # of float16 losses: keeps small gradients from underflow; a power of 2, so nothing is rounded


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

    def __init__(
        self,
        model: nn.Module,
        parameters: dict[str, nn.Parameter],
        objectives: list[Objective],
        group_size: GroupSize,
        options: PassOptions,
    ) -> None:
        self.model, self.parameters = unwrap_compile(model), parameters
        self.given = model  # called where nothing hooks into it
        self.compiled: Any = torch.compile(self.model, dynamic=False) if options.compiled else None
        self.sizes = Sizes()
        self.objectives, self.group_size, self.options = objectives, group_size, options
        self.dtype, self.amp = options.dtype, options.amp
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
                compiled=Compiled(functools.partial(self._losses, job.losses, self.model), self._checked)
                if options.compiled
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
            ranks.all_reduce(sums)

    def over(self, loader: Iterable[object], start: Position, keeper: PassCheckpoint | None) -> Position:
        """Go through the loader's samples, those before `start` unused; returns the position at the end."""
        sampler = sampler_of(loader)
        total = len(sampler) if isinstance(sampler, Sized) else None
        labelled = [objective.name for objective in self.objectives if objective.needs_labels]
        position = Position()
        with (
            bar(total=total, what="importances", unit="sample", shown=self.options.progress) as samples_done,
            keeping(keeper),
        ):
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

    def _add(self, piece: Chunk) -> None:
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
        total = losses.sum() * (self.scale * groups / len(losses))
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
