"""Importances of a batch from one backward pass: each layer's statistic is taken as its gradient is computed."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..errors import ImportanceError
from ..utils.inputs import BatchInputs, map_tensors
from ..utils.memory import ran_out
from ..utils.model import ModelParameters
from .compiled import Compiled, Outputs
from .derived import DerivedWeight
from .hooks import LayerCall, LayerHooks, RulePlan, frozen, layer_hooks, leaves_of
from .operation_rules import Operation
from .rule_check import substituted_names, verified
from .rules import LEAF, Accumulators, LayerIO, Rule, accumulate_tied, at_least_float32
from .sample_checks import random_numbers_kept

VERIFIED_AGAIN = {16, 256, 4096, 65536}  # batches, of a model whose path may depend on what it reads
ELEMENTS = 1 << 22  # of gradients per group that are written out at a time, for a parameter with several uses


@dataclass(frozen=True)
class AccumulationTarget:
    """Sums that one backward pass over a batch of N groups adds to.

    Attributes:
        sums: Name -> [K, *shape], for K objectives that share the backward pass.
        square: gradient² instead of |gradient|.
        weights: [K, N], factor of each group's |gradient| or gradient²; None for ones.
        factors: [K, B], factor of each sample's gradient within its group's; None for ones.
        release: Called with the names whose sums are complete for this batch.
    """

    sums: Mapping[str, Tensor]
    square: bool
    weights: Tensor | None
    factors: Tensor | None
    release: Callable[[Iterable[str]], None] | None = None


@dataclass
class Engine:
    """Takes batches through a model whose layers have rules.

    Attributes:
        model: The model.
        plan: Verified on the first samples; None before.
        batches: That were added.
        irregular: Parameters of layers that some batch has called otherwise than the samples that were verified.
        channels_last: Images are laid out so; False once the model has refused that.
        gathered: FSDP2 gathers the parameters when a layer is called, on all ranks: none may verify rules by itself.
        compiled: Takes some of the batches in place of the model as it is.
    """

    model: ModelParameters
    plan: RulePlan | None = None
    batches: int = 0
    irregular: set[str] = field(default_factory=set)
    channels_last: bool = True
    gathered: bool = False
    compiled: Compiled | None = None

    def add(
        self,
        inputs: BatchInputs,
        labels: Tensor | None,
        groups: int,
        losses: Callable[[BatchInputs], Tensor],
        make_target: Callable[[Tensor], tuple[Tensor, AccumulationTarget]],
    ) -> tuple[AccumulationTarget, tuple[str, ...]]:
        """Add the statistics of a batch, for every parameter that a rule covers.

        Args:
            inputs: [B, ...], two samples or more.
            labels: [B, ...] or None, for the compiled form; `losses` has its own.
            groups: N, that divides B.
            losses: [B', ...] -> [B'], of the first B' samples of the batch.
            make_target: losses [B] -> the scalar to differentiate, and where the gradients go.

        Returns:
            The target, and the names of the parameters without a rule.
        """
        compiled = self.compiled is not None and self.compiled.takes(inputs)
        parameters = self.model.parameters
        self.batches += 1
        with frozen(self.model.module, compiled), ExitStack() as stack:
            hooks: LayerHooks | Outputs
            if compiled:
                hooks, per_sample, receiver = self._compiled_forward(inputs, labels, groups)
            else:
                hooks, per_sample, receiver = self._forward(stack, inputs, groups, losses)
            total, target = make_target(per_sample)
            assert self.plan is not None
            if total.requires_grad:
                unused = {} if self.gathered else {name: parameters[name] for name in self.plan.unused}
                receiver.begin(hooks.calls, target)
                edges = hooks.edges
                reached: list[Any] = [*hooks.sources, *hooks.leaves.values(), *unused.values()]
                if self.plan.own_leaves:
                    reached += leaves_of(total, [*reached, *parameters.values()])
                reached += edges.values()
                gradients = hooks.gradients(total, reached)
                if compiled:
                    receiver.take(hooks.calls, gradients)
                rest = gradients[len(hooks.sources) :]
                receiver.finish(dict(zip((*hooks.leaves, *unused), rest, strict=False)))
                if read := [n for n, g in zip(edges, rest[len(rest) - len(edges) :], strict=True) if g is not None]:
                    raise ImportanceError(f"{', '.join(read)} got a gradient by an operation that was not seen before")
                # No batch before has read these parameters: their sums are 0 until now.
                if newly_used := receiver.newly_used:
                    still_unused = tuple(name for name in unused if name not in newly_used)
                    without_rule = (*self.plan.without_rule, *newly_used)
                    self.plan = replace(self.plan, unused=still_unused, without_rule=without_rule)
        return target, self.plan.without_rule

    def _forward(
        self, stack: ExitStack, inputs: BatchInputs, groups: int, losses: Callable[[BatchInputs], Tensor]
    ) -> tuple[LayerHooks, Tensor, Receiver]:
        """One forward pass, with hooks that stay until the stack is closed: a backward pass may call layers again.

        Layers whose calls are not those that were verified get no rule any more, from this batch on.
        """
        again = self.compiled is None and not self.gathered
        while True:
            if self.plan is None:
                self.verify(inputs, losses)
            elif self.plan.reads and self.batches in VERIFIED_AGAIN and again:
                self.irregular.update(self.plan.without_rule)
                self.verify(inputs, losses)
            again = False
            receiver = self._receiver(groups)
            assert self.plan is not None
            hooks = stack.enter_context(layer_hooks(self.plan, receiver, inputs.device, self.model))
            try:
                with hooks.forward(len(inputs), {} if self.gathered else self.model.parameters):
                    per_sample = losses(self._laid_out(inputs))
                names = self._irregular(hooks, len(inputs))
            except Exception as error:
                names = substituted_names(self.plan) | self.plan.operations
                if not names or self.gathered or ran_out(error):
                    raise
            if not names:
                if self.compiled is not None:
                    self.compiled.learn(inputs, hooks.calls)
                return hooks, per_sample, receiver
            stack.close()
            if self.gathered:
                raise ImportanceError(
                    f"the layers of {', '.join(sorted(names))} are called otherwise than for the first sample, and "
                    "without a rule a sharded model's importances cannot be had; use a model that is not sharded"
                )
            self.irregular.update(names)
            self.verify(inputs, losses)

    def _compiled_forward(
        self, inputs: BatchInputs, labels: Tensor | None, groups: int
    ) -> tuple[Outputs, Tensor, Receiver]:
        assert self.compiled is not None and self.plan is not None
        receiver = self._receiver(groups)
        outputs = self.compiled.forward(self.plan, self.model.parameters, self._laid_out(inputs), labels)
        if self._called_otherwise(outputs.calls, len(inputs)):
            raise ImportanceError("the model takes another path through its layers when it is compiled")
        return outputs, outputs.losses, receiver

    def _receiver(self, groups: int) -> Receiver:
        """For a forward pass, which watches the parameters that none has read so far."""
        assert self.plan is not None
        for name in () if self.gathered else self.plan.unused:
            self.model.parameters[name].requires_grad_(True)
        return Receiver(self.plan, groups, [] if self.compiled is not None else None)

    def _irregular(self, hooks: LayerHooks, batch: int) -> set[str]:
        """Parameters of layers whose calls are not those that were verified."""
        assert self.plan is not None
        names = {name for layer in hooks.unfit for name in self.plan.layers[layer].values()}
        return names | hooks.early | hooks.misread | self._called_otherwise(hooks.calls, batch)

    def _called_otherwise(self, calls: list[LayerCall], batch: int) -> set[str]:
        """Of what was called another number of times, or with other rows to a sample, than was verified."""
        assert self.plan is not None
        rows: dict[nn.Module | Operation, list[int]] = {}
        verified_rows: dict[nn.Module | Operation, list[int]] = {}
        for call in calls:
            rows.setdefault(call.layer, []).append(call.rows)
        for layer, rows_each in self.plan.calls:
            verified_rows.setdefault(layer, []).append(rows_each * batch)
        changed = {layer for layer in {*rows, *verified_rows} if rows.get(layer) != verified_rows.get(layer)}
        return {
            name
            for layer in changed
            for name in (layer.names if isinstance(layer, Operation) else self.plan.layers[layer].values())
        }

    def verify(self, inputs: BatchInputs, losses: Callable[[BatchInputs], Tensor]) -> None:
        """Make the plan, on the first of these samples; parameters must be frozen."""
        for parameter in self.model.parameters.values():  # those that no operation has read so far are not
            parameter.requires_grad_(False)
        with random_numbers_kept(self.model.device):
            self.plan = self._verified(inputs, losses)
        self._check_coverage(self.plan)
        if self.compiled is not None:
            self.compiled.forget()

    def _verified(self, inputs: BatchInputs, losses: Callable[[BatchInputs], Tensor]) -> RulePlan:
        laid_out = self._laid_out(inputs)
        if laid_out is not inputs:
            try:
                return verified(self.model, laid_out, losses, self.irregular, self.compiled is None)
            except ImportanceError:
                raise
            except Exception:  # a `view` of what is not contiguous, say
                self.channels_last = False
        return verified(self.model, inputs, losses, self.irregular, self.compiled is None)

    def _laid_out(self, inputs: BatchInputs) -> BatchInputs:
        """Images with their channels last in memory, and so all that convolutions make of them.

        On a CPU, convolutions are faster there, and the products of their rules spare a copy of every input and
        gradient.
        """
        if not self.channels_last or inputs.device.type != "cpu":
            return inputs
        return map_tensors(inputs, lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)

    def _check_coverage(self, plan: RulePlan) -> None:
        """Raise ImportanceError for parameters that would end the pass without a statistic."""
        covered = {name for own in plan.layers.values() for name in own.values()}
        covered |= {*plan.leaves, *plan.operations, *plan.unused, *plan.without_rule}
        if missed := [name for name in self.model.parameters if name not in covered]:
            raise ImportanceError(f"no rule gives the importances of {', '.join(missed)}")


class Receiver:
    """Turns each layer's gradient into statistics when it comes, and forgets the layer's inputs.

    Args:
        plan: The verified plan.
        groups: N, of the batch.
        retained: Keeps inputs and gradients nevertheless, so that memory is measured as the compiled form will take it.

    Attributes:
        newly_used: Parameters that no operation was seen to read before, and that have a gradient now.
    """

    def __init__(self, plan: RulePlan, groups: int, retained: list[Tensor] | None = None) -> None:
        self.plan, self.groups, self.retained = plan, groups, retained
        self.newly_used: list[str] = []

    def begin(self, calls: list[LayerCall], target: AccumulationTarget) -> None:
        """Prepare for the backward pass through these calls."""
        self.target = target
        self.expected = Counter(name for call in calls for name in call.names)
        self.shared: dict[str, list[ParameterUse]] = {}

    def take(self, calls: list[LayerCall], gradients: Iterable[Tensor | None]) -> None:
        """Those of a compiled backward pass, all at once."""
        for call, gradient in zip(calls, gradients, strict=False):
            if gradient is not None:
                self(call, gradient)

    def __call__(self, call: LayerCall, gradient: Tensor) -> None:
        """The gradient at a call's output."""
        rule, layer, own = call.rule, cast(nn.Module, call.layer), call.own
        inputs = call.take_inputs()
        if self.retained is not None:
            self.retained += [inputs, gradient]
        if inputs.is_floating_point():
            inputs = inputs.to(gradient.dtype)  # under autocast the layer has multiplied these
        io = LayerIO(inputs, gradient, self.groups)
        used_once = {local: name for local, name in own.items() if self.expected[name] == 1}
        if used_once:
            self._add(rule, layer, io, used_once, call.shapes)
        for local in own.keys() - used_once.keys():
            self._share(own[local], ParameterUse(rule, layer, local, io))
        for local, weight in call.derived.items():
            use = ParameterUse(rule, layer, local, io, weight)
            if all(self.expected[name] == 1 for name in weight.edges):
                self._add_in_full([*weight.edges], [use])
            else:
                for name in weight.edges:
                    self._share(name, use)

    def finish(self, gradients: Mapping[str, Tensor | None]) -> None:
        """The gradients of the leaves [B, ...], and parameters of which some use leads nowhere."""
        for name, gradient in gradients.items():
            if gradient is not None and name in self.plan.leaves:
                io = LayerIO(gradient, gradient, self.groups)
                self._add(LEAF, self.plan.leaves[name][0], io, {"leaf": name})
            elif gradient is not None:
                self.newly_used.append(name)
        for name, uses in self.shared.items():
            self._add_shared(name, uses)

    def _add(
        self,
        rule: Rule,
        layer: nn.Module,
        io: LayerIO,
        names: Mapping[str, str],
        shapes: Mapping[str, torch.Size] | None = None,
    ) -> None:
        for rows, factor in self._objectives():
            sums = {local: self.target.sums[name][rows] for local, name in names.items()}
            if shapes:
                sums = {local: total.view(len(total), *shapes[local]) for local, total in sums.items()}
            accumulators = Accumulators(sums, self.target.square, self.target.weights)
            rule.accumulate(layer, scaled(io, factor), accumulators)
        self._release(names.values())

    def _share(self, name: str, use: ParameterUse) -> None:
        """One of several uses of a parameter, which add up before |·| or ·² is taken."""
        uses = self.shared.setdefault(name, [])
        uses.append(use)
        if len(uses) == self.expected[name]:
            self._add_shared(name, self.shared.pop(name))

    def _add_shared(self, name: str, uses: list[ParameterUse]) -> None:
        if all(use.derived is None for use in uses):
            tied = True
            for rows, factor in self._objectives():
                accumulators = Accumulators(
                    {"weight": self.target.sums[name][rows]}, self.target.square, self.target.weights
                )
                tied = tied and accumulate_tied([(u.rule, u.layer, scaled(u.io, factor)) for u in uses], accumulators)
            if tied:
                self._release((name,))
                return
        self._add_in_full([name], uses)

    def _add_in_full(self, names: list[str], uses: list[ParameterUse]) -> None:
        """By gradients per group that are written out, a few groups at a time."""
        totals = {name: self.target.sums[name] for name in names}
        largest = max(total[0].numel() for total in totals.values())
        step = max(1, ELEMENTS // max(1, largest, *(use.numel for use in uses)))
        for rows, factor in self._objectives():
            scaled_uses = [use._replace(io=scaled(use.io, factor)) for use in uses]
            for start in range(0, self.groups, step):
                part = slice(start, min(start + step, self.groups))
                weights = None if self.target.weights is None else self.target.weights[:, part]
                sums = {name: total[rows] for name, total in totals.items()}
                accumulators = Accumulators(sums, self.target.square, weights)
                gradients = [use.gradients(names, part) for use in scaled_uses]
                for name, total in totals.items():
                    if of_name := [found[name] for found in gradients if name in found]:
                        accumulators.add(name, functools.reduce(torch.add, of_name).reshape(-1, *total.shape[1:]))
        self._release(names)

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


class ParameterUse(NamedTuple):
    """What a call has computed from a parameter.

    Attributes:
        rule: Of the call.
        layer: The layer.
        local: Name of the parameter, or of the weight that was computed from it, within the layer.
        io: The call.
        derived: That weight.
    """

    rule: Rule
    layer: nn.Module
    local: str
    io: LayerIO
    derived: DerivedWeight | None = None

    @property
    def numel(self) -> int:
        """Elements of a gradient of the weight that was computed; 0 where there is none."""
        return 0 if self.derived is None else self.derived.value.numel()

    def gradients(self, names: list[str], part: slice) -> dict[str, Tensor]:
        """Of some groups, by the names of the parameters; without `derived` there is but one."""
        gradient = self.rule.gradients(self.layer, of_groups(self.io, part), (self.local,))[self.local]
        return {names[0]: gradient} if self.derived is None else self.derived.pulled_back(gradient, names)


def scaled(io: LayerIO, factor: Tensor | None) -> LayerIO:
    """The call with each sample's gradient multiplied by its factor [B]."""
    if factor is None:
        return io
    g = at_least_float32(io.gradient)
    by_row = factor.to(g.dtype).repeat_interleave(len(g) // len(factor))  # [B · r]
    inputs = io.inputs.to(g.dtype) if io.inputs.is_floating_point() else io.inputs
    return LayerIO(inputs, g * by_row.view(-1, *[1] * (g.dim() - 1)), io.groups)


def of_groups(io: LayerIO, part: slice) -> LayerIO:
    """The call restricted to some of the groups."""
    rows_each = len(io.gradient) // io.groups
    rows = slice(part.start * rows_each, part.stop * rows_each)
    return LayerIO(io.inputs[rows], io.gradient[rows], part.stop - part.start)
