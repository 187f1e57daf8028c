"""Statistics of a batch's layers, taken as the gradient of each comes in a backward pass."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .derived import DerivedWeight
from .hooks import LayerCall
from .rule_plan import RulePlan
from .rules import LEAF, Accumulators, LayerIO, Rule, accumulate_tied, at_least_float32

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
