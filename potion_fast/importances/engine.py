"""Importances of a batch from one backward pass: each layer's statistic is taken when its gradient comes by."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import ImportanceError
from .compiled import Compiled, Outputs, compiling
from .hooks import Call, LayerHooks, Plan, frozen, tapped
from .rule_check import proved
from .rules import LEAF, Rule, Sums, Use, accumulate_tied, at_least_float32

ELEMENTS = 1 << 22  # of gradients per group that are written out at a time, for a parameter with several uses


@dataclass(frozen=True)
class Target:
    """What one backward pass over a batch of N groups adds, and where.

    sums     name -> [K, *shape], for K objectives that share the backward pass
    square   gradient² instead of |gradient|
    weights  [K, N], factor of each group's |gradient| or gradient²; None for ones
    factors  [K, B], factor of each sample's gradient within its group's; None for ones
    release  called with the names whose sums are complete for this batch
    """

    sums: Mapping[str, Tensor]
    square: bool
    weights: Tensor | None
    factors: Tensor | None
    release: Callable[[Iterable[str]], None] | None = None


@dataclass
class Engine:
    """Takes batches through a model whose layers have rules.

    gathered  FSDP2 gathers the parameters when a layer is called, on all ranks: none may prove anything by itself
    compiled  takes some of the batches in place of the model as it is
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    plan: Plan | None = None
    channels_last: bool = True  # until the model refuses
    gathered: bool = False
    compiled: Compiled | None = None

    def add(
        self,
        inputs: Tensor,
        labels: Tensor | None,
        groups: int,
        losses: Callable[[Tensor], Tensor],
        aim: Callable[[Tensor], tuple[Tensor, Target]],
    ) -> tuple[Target, tuple[str, ...]]:
        """Add the statistics of a batch, for every parameter that a rule covers.

        inputs  [B, ...], two samples or more
        labels  [B, ...] or None, for the compiled form; `losses` has its own
        groups  N, that divides B
        losses  [B', ...] -> [B'], of the first B' samples of the batch
        aim     losses [B] -> the scalar to differentiate, and where the gradients go

        Returns the target, and the names of the parameters that are left to torch.func.
        """
        compiled = self.compiled is not None and self.compiled.takes(inputs)
        with frozen(self.model, compiled):
            taps: LayerHooks | Outputs
            if compiled:
                taps, per_sample, receiver = self._compiled_forward(inputs, labels, groups)
            else:
                taps, per_sample, receiver = self._forward(inputs, groups, losses)
            total, target = aim(per_sample)
            assert self.plan is not None
            if total.requires_grad:
                unused = {} if self.gathered else {name: self.parameters[name] for name in self.plan.unused}
                receiver.begin(taps.calls, target)
                reached = [*taps.sources, *taps.leaves.values(), *unused.values()]
                with compiling() if compiled else nullcontext():
                    gradients = torch.autograd.grad(total, reached, allow_unused=True)
                if compiled:
                    receiver.take(taps.calls, gradients)
                rest = gradients[len(taps.sources) :]
                receiver.finish(dict(zip((*taps.leaves, *unused), rest, strict=True)))
                if late := receiver.late:  # no batch before has read these parameters: their sums are 0 until now
                    still = tuple(name for name in unused if name not in late)
                    self.plan = replace(self.plan, unused=still, left=(*self.plan.left, *late))
        return target, self.plan.left

    def _forward(
        self, inputs: Tensor, groups: int, losses: Callable[[Tensor], Tensor]
    ) -> tuple[LayerHooks, Tensor, Receiver]:
        """One forward pass whose calls are those that were proved; otherwise they are proved again, for this batch."""
        for again in (False,) if self.gathered else (False, True):
            if self.plan is None or again:
                self.prove(inputs, losses)
            receiver = self._receiver(groups)
            assert self.plan is not None
            with tapped(self.plan, receiver, inputs.device) as taps:
                with taps.forward(len(inputs), {} if self.gathered else self.parameters):
                    per_sample = losses(self._laid_out(inputs))
                if not taps.unfit and self._as_proved(taps.calls, len(inputs)):
                    if self.compiled is not None:
                        self.compiled.learn(inputs, taps.calls)
                    return taps, per_sample, receiver
        raise ImportanceError("the model takes another path through its layers each time it is called")

    def _compiled_forward(self, inputs: Tensor, labels: Tensor | None, groups: int) -> tuple[Outputs, Tensor, Receiver]:
        assert self.compiled is not None and self.plan is not None
        receiver = self._receiver(groups)
        outputs = self.compiled.forward(self.plan, self.parameters, self._laid_out(inputs), labels)
        if not self._as_proved(outputs.calls, len(inputs)):
            raise ImportanceError("the model takes another path through its layers when it is compiled")
        return outputs, outputs.losses, receiver

    def _receiver(self, groups: int) -> Receiver:
        """For a forward pass, which watches the parameters that none has read so far."""
        assert self.plan is not None
        for name in () if self.gathered else self.plan.unused:
            self.parameters[name].requires_grad_(True)
        return Receiver(self.plan, groups, [] if self.compiled is not None else None)

    def _as_proved(self, calls: list[Call], batch: int) -> bool:
        assert self.plan is not None
        return [(call.layer, call.rows) for call in calls] == [(layer, each * batch) for layer, each in self.plan.calls]

    def prove(self, inputs: Tensor, losses: Callable[[Tensor], Tensor]) -> None:
        """Make the plan, on the first of these samples; parameters must be frozen."""
        self.plan = self._proved(inputs, losses)
        self._check_coverage(self.plan)
        if self.compiled is not None:
            self.compiled.forget()

    def _proved(self, inputs: Tensor, losses: Callable[[Tensor], Tensor]) -> Plan:
        laid_out = self._laid_out(inputs)
        if laid_out is not inputs:
            try:
                return proved(self.model, self.parameters, laid_out, losses)
            except ImportanceError:
                raise
            except Exception:  # a `view` of what is not contiguous, say
                self.channels_last = False
        return proved(self.model, self.parameters, inputs, losses)

    def _laid_out(self, inputs: Tensor) -> Tensor:
        """Images with their channels last in memory, and so all that convolutions make of them: on a CPU, convolutions
        are faster there, and the products of their rules spare a copy of every input and gradient."""
        if not self.channels_last or inputs.dim() != 4 or inputs.device.type != "cpu":
            return inputs
        return inputs.contiguous(memory_format=torch.channels_last)

    def _check_coverage(self, plan: Plan) -> None:
        """Raise ImportanceError for parameters that would end the pass without a statistic."""
        covered = {name for own in plan.layers.values() for name in own.values()}
        covered |= {*plan.leaves, *plan.unused, *plan.left}
        if missed := [name for name in self.parameters if name not in covered]:
            raise ImportanceError(f"no rule gives the importances of {', '.join(missed)}")


class Receiver:
    """Turns each layer's gradient into statistics when it comes, and forgets the layer's inputs.

    held  keeps them nevertheless, so that memory is measured as the compiled form will take it
    """

    def __init__(self, plan: Plan, groups: int, held: list[Tensor] | None = None) -> None:
        self.plan, self.groups, self.held = plan, groups, held
        self.late: list[str] = []  # parameters that no operation was seen to read, and that have a gradient now

    def begin(self, calls: list[Call], target: Target) -> None:
        self.target = target
        self.expected = Counter(name for call in calls for name in self.plan.layers[call.layer].values())
        self.shared: dict[str, list[tuple[Rule, nn.Module, str, Use]]] = {}

    def take(self, calls: list[Call], gradients: Iterable[Tensor | None]) -> None:
        """Those of a compiled backward pass, all at once."""
        for call, gradient in zip(calls, gradients, strict=False):
            if gradient is not None:
                self(call, gradient)

    def __call__(self, call: Call, gradient: Tensor) -> None:
        rule, own = call.rule, self.plan.layers[call.layer]
        inputs = call.take_inputs()
        if self.held is not None:
            self.held += [inputs, gradient]
        if inputs.is_floating_point():
            inputs = inputs.to(gradient.dtype)  # under autocast the layer has multiplied these
        use = Use(inputs, gradient, self.groups)
        alone = {local: name for local, name in own.items() if self.expected[name] == 1}
        if alone:
            self._add(rule, call.layer, use, alone)
        for local in own.keys() - alone.keys():
            uses = self.shared.setdefault(own[local], [])
            uses.append((rule, call.layer, local, use))
            if len(uses) == self.expected[own[local]]:
                self._add_shared(own[local], self.shared.pop(own[local]))

    def finish(self, gradients: Mapping[str, Tensor | None]) -> None:
        """The gradients of the leaves [B, ...], and what is still waiting for a use that leads nowhere."""
        for name, gradient in gradients.items():
            if gradient is not None and name in self.plan.leaves:
                use = Use(gradient, gradient, self.groups)
                self._add(LEAF, self.plan.leaves[name][0], use, {"leaf": name})
            elif gradient is not None:
                self.late.append(name)
        for name, uses in self.shared.items():
            self._add_shared(name, uses)

    def _add(self, rule: Rule, layer: nn.Module, use: Use, names: Mapping[str, str]) -> None:
        for rows, factor in self._objectives():
            sums = {local: self.target.sums[name][rows] for local, name in names.items()}
            rule.accumulate(layer, scaled(use, factor), Sums(sums, self.target.square, self.target.weights))
        self._release(names.values())

    def _add_shared(self, name: str, uses: list[tuple[Rule, nn.Module, str, Use]]) -> None:
        """The uses of one parameter add up before |·| or ·² is taken."""
        for rows, factor in self._objectives():
            total = self.target.sums[name][rows]
            found = [(rule, layer, local, scaled(use, factor)) for rule, layer, local, use in uses]
            sums = Sums({"weight": total}, self.target.square, self.target.weights)
            if not accumulate_tied([(rule, layer, use) for rule, layer, _, use in found], sums):
                self._add_in_full(total, found)
        self._release((name,))

    def _add_in_full(self, total: Tensor, uses: list[tuple[Rule, nn.Module, str, Use]]) -> None:
        """By gradients per group that are written out, a few groups at a time."""
        step = max(1, ELEMENTS // total[0].numel())
        for start in range(0, self.groups, step):
            some = slice(start, min(start + step, self.groups))
            gradients = [
                rule.gradients(layer, of_groups(use, some), (local,))[local] for rule, layer, local, use in uses
            ]
            weights = None if self.target.weights is None else self.target.weights[:, some]
            Sums({"it": total}, self.target.square, weights).add("it", functools.reduce(torch.add, gradients))

    def _release(self, names: Iterable[str]) -> None:
        if self.target.release is not None:
            self.target.release(names)

    def _objectives(self) -> Iterator[tuple[slice, Tensor | None]]:
        """Rows of the sums that one product serves, and the factor [B] of each sample's gradient in it."""
        if self.target.factors is None:
            yield slice(None), None
        else:
            for k, factor in enumerate(self.target.factors):
                yield slice(k, k + 1), factor


def scaled(use: Use, factor: Tensor | None) -> Use:
    """The use with each sample's gradient multiplied by its factor [B]."""
    if factor is None:
        return use
    g = at_least_float32(use.gradient)
    by_row = factor.to(g.dtype).repeat_interleave(len(g) // len(factor))  # [B · r]
    inputs = use.inputs.to(g.dtype) if use.inputs.is_floating_point() else use.inputs
    return Use(inputs, g * by_row.view(-1, *[1] * (g.dim() - 1)), use.groups)


def of_groups(use: Use, some: slice) -> Use:
    """The use by some of the groups only."""
    each = len(use.gradient) // use.groups
    rows = slice(some.start * each, some.stop * each)
    return Use(use.inputs[rows], use.gradient[rows], some.stop - some.start)
