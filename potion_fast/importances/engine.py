"""Importances of a batch from one backward pass: each layer's statistic is taken as its gradient is computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ImportanceError
from ..utils.inputs import BatchInputs, map_tensors
from ..utils.memory import ran_out
from ..utils.model import ModelParameters
from .compiled import Compiled, Outputs
from .hooks import LayerCall, LayerHooks, frozen, layer_hooks, leaves_of
from .operation_rules import Operation
from .receiver import AccumulationTarget, Receiver
from .rule_check import substituted_names, verified
from .rule_plan import RulePlan
from .sample_checks import random_numbers_kept

VERIFIED_AGAIN = {16, 256, 4096, 65536}  # batches, of a model whose path may depend on what it reads


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
