"""Check, on the first samples of a pass, that each layer's rule is right in this model.

A rule reads the gradient of sample k off the rows of sample k. That is right if and only if the gradient of ℓ_k reaches
no other rows, and if no operation outside the layer reads the parameter. Position embeddings that are looked up once
for all samples, time-first sequences, weights used by name instead of by call: all of these look like layers with a
batch and are not. Two measurements tell them apart:

- Rows: the gradient of ℓ_k alone is made NaN, which every arithmetic passes on, even where a weight is 0: the rows that
  turn NaN are those that ℓ_k reaches.
- Reads: every operation of the forward pass is watched for one that reads a parameter outside a call of its layer.

A parameter that fails goes through torch.func or a loop. A sample that another sample's loss depends on is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ImportanceError
from ..utils.inputs import BatchInputs, map_tensors, tensors_of
from ..utils.memory import ran_out
from ..utils.model import ModelParameters
from .activation_checkpointing import check_not_reentrant
from .data_flow import DataFlow
from .fsdp_gather import GatheredParameters
from .hooks import LayerCall, layer_hooks, leaves_of
from .read_tracker import ReadTracker
from .rule_plan import RulePlan, candidates
from .rules import BroadcastRule
from .sample_checks import MIXED

SAMPLES = 3  # enough to tell "one sample's rows" from "all rows"; few, since each costs a backward pass
Forward = Callable[[BatchInputs], Tensor]  # inputs [B, ...] -> losses [B]


def check_no_batch_statistics(module: nn.Module) -> None:
    """Check that no batch norm in eval mode would use the batch's statistics.

    Raises:
        ImportanceError: One would; it is named.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            raise ImportanceError(
                f"layer {name!r} normalises with the statistics of the batch, which mixes its samples, so they have no "
                "gradients of their own; give it running statistics (track_running_stats=True) and keep it in eval mode"
            )


def verified(
    model: ModelParameters,
    inputs: BatchInputs,
    losses: Forward,
    without: Iterable[str] = (),
    by_operation: bool = True,
) -> RulePlan:
    """The plan that uses a rule wherever the first samples show that it is right.

    Args:
        model: Its parameters frozen.
        inputs: [B, ...], two samples or more.
        losses: Of the model, [B', ...] -> [B'].
        without: Parameters that get no rule.
        by_operation: Parameters may have rules by operation.

    Raises:
        ImportanceError: Samples mix.
    """
    gathered = GatheredParameters.of(model)
    by_operation = by_operation and gathered is None
    plan = candidates(model, by_operation)
    plan = _without(plan, RuleRejected(set(without) - {*plan.without_rule}), by_operation=False)
    inputs = inputs[:SAMPLES]
    flow = flow_of(inputs[: len(inputs) - 1], losses)
    while True:
        try:
            return _tested(plan, model, inputs, losses, gathered, flow)
        except RuleRejected as rejection:
            plan = _without(plan, rejection, by_operation)
        except Exception as error:
            check_not_reentrant(error)
            if gathered is not None or not (plan.operations or substituted_names(plan)):
                raise  # the model itself fails, or its samples mix
            leaves = _rejected_leaves(plan, model, inputs, losses)
            plan = _without(plan, RuleRejected(leaves or set(plan.operations)), by_operation)


def flow_of(inputs: BatchInputs, losses: Forward) -> DataFlow:
    """The flow of a few samples' values; without any event where the model does not take so few."""
    flow = DataFlow(tensors_of(inputs))
    try:
        with flow:
            flow.has_gradient = losses(inputs).requires_grad
    except Exception as error:
        if ran_out(error) or "CUDA error" in str(error):
            raise
        flow.events.clear()
    return flow


class RuleRejected(Exception):  # noqa: N818 - not an error: it says what to do next
    """A plan that the samples show to be wrong.

    Args:
        names: Parameters that lose their rule.
        expand: Layers to expand.
        elsewhere: Whether these are read by other operations than their layers', which may have rules.
    """

    def __init__(self, names: set[str], expand: Iterable[nn.Module] = (), elsewhere: bool = False) -> None:
        super().__init__(sorted(names))
        self.names, self.expand, self.elsewhere = names, frozenset(expand), elsewhere


def substituted_names(plan: RulePlan) -> set[str]:
    """The parameters in whose place the model gets something else: a leaf, or a layer's expanded output."""
    return set(plan.leaves) | {name for layer in plan.expanded for name in plan.layers[layer].values()}


def _without(plan: RulePlan, rejection: RuleRejected, by_operation: bool) -> RulePlan:
    layers = {
        layer: kept
        for layer, own in plan.layers.items()
        if (kept := {local: name for local, name in own.items() if name not in rejection.names})
    }
    moved = rejection.names & plan.leaves.keys() | (rejection.names if rejection.elsewhere else set())
    moved = moved - plan.operations if by_operation else set()
    return replace(
        plan,
        layers=layers,
        leaves={name: place for name, place in plan.leaves.items() if name not in rejection.names},
        operations=plan.operations - rejection.names | moved,
        expanded=(plan.expanded | rejection.expand) & layers.keys(),
        without_rule=(*plan.without_rule, *sorted(rejection.names - moved)),
    )


def _tested(
    plan: RulePlan,
    model: ModelParameters,
    inputs: BatchInputs,
    losses: Forward,
    gathered: GatheredParameters | None,
    fewer: DataFlow,
) -> RulePlan:
    """The plan with its calls and unused parameters filled in.

    Raises RuleRejected, or ImportanceError where samples mix.
    """
    batch, sample = len(inputs), 0
    values = {name: perturbed(model.parameters[name]) for name in plan.leaves} if gathered is None else {}
    reached: dict[tuple[int, int], Tensor] = {}  # call, sample -> [rows] bool
    inputs_reached: dict[int, Tensor] = {}  # sample -> [B] bool
    twice: set[str] = set()  # parameters of calls whose output gets a gradient more than once

    def on_gradient(call: LayerCall, gradient: Tensor) -> None:
        if (call.index, sample) in reached:  # a hook within the model takes gradients of its own
            twice.update(call.names)
        reached[call.index, sample] = _nan_rows(gradient)

    def tracked(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        followed = hooks.tracked(tensor)
        followed.register_hook(on_input_gradient)
        return followed

    def on_input_gradient(gradient: Tensor) -> None:
        rows = _nan_rows(gradient)
        inputs_reached[sample] = inputs_reached[sample] | rows if sample in inputs_reached else rows

    with layer_hooks(plan, on_gradient, inputs.device, model) as hooks, torch.autograd.set_detect_anomaly(False):
        followed_inputs = map_tensors(inputs, tracked)
        flow = DataFlow(tensors_of(followed_inputs), fewer)

        def watch(call: LayerCall, call_inputs: Tensor, output: Tensor) -> None:
            flow.note(call.names, (call_inputs, output))
            if call.layer in plan.expanded or isinstance(call.rule, BroadcastRule):
                flow.note_copies((output,))

        hooks.watch = watch
        with hooks.forward(batch, values), ReadTracker(plan, model, gathered) as reads, flow:
            flow.note_copies(hooks.leaves.values())
            per_sample = losses(followed_inputs)
        if reads.outside:
            raise RuleRejected(reads.outside, elsewhere=True)
        single: set[nn.Module] = set()  # layers with one output for all samples
        rejected = _names(plan, hooks.unfit) | hooks.early | flow.routed_names()
        if flow.recomputed:
            rejected |= _names(plan, plan.expanded)
        if flow.copies_are_misplaced:
            rejected |= substituted_names(plan)
            rejected.update(name for call in hooks.calls if isinstance(call.rule, BroadcastRule) for name in call.names)
        for call in hooks.calls:
            if call.rows == 1 and isinstance(call.layer, nn.Module) and call.layer not in plan.expanded:
                single.add(call.layer)
            elif call.rows % batch:
                rejected.update(call.names)
        if hooks.mode is not None:
            rejected |= hooks.misread | hooks.mode.reached_from(per_sample)
        if rejected:
            raise RuleRejected(rejected)
        if single:  # one output for all samples: try again with one for each
            raise RuleRejected(set(), single)
        own_leaves = leaves_of(per_sample, [*hooks.sources, *hooks.leaves.values(), *model.parameters.values()])
        sources = [*hooks.leaves.values(), *hooks.sources, *own_leaves]
        for sample in range(batch if per_sample.requires_grad else 0):
            seed = torch.zeros_like(per_sample)
            seed[sample] = torch.nan
            gradients = hooks.gradients(per_sample, sources, seed, retain_graph=True)
            if sample in inputs_reached and not _only(inputs_reached[sample], sample, 1):
                if _depends_on_others(per_sample, sample, followed_inputs):
                    raise ImportanceError(MIXED)
                # Others are multiplied by 0, as by a mask of the whole batch.
                rejected.update(plan.leaves, *(call.names for call in hooks.calls))
            for name, gradient in zip(hooks.leaves, gradients, strict=False):
                if gradient is not None:
                    reads.read.add(name)
                    if not _only(_nan_rows(gradient), sample, 1):
                        rejected.add(name)
    rejected |= twice
    for (i, k), rows in reached.items():
        if not _only(rows, k, len(rows) // batch):
            rejected.update(hooks.calls[i].names)
    if substituted_names(plan) and not _close(per_sample, _losses_with(losses, inputs, plan, values)):
        if gathered is None:
            rejected |= _rejected_leaves(plan, model, inputs, losses)
        else:
            rejected |= substituted_names(plan)
    if rejected:
        raise RuleRejected(rejected)
    unread = reads.unread()
    return replace(
        plan,
        calls=tuple((call.layer, call.rows // batch) for call in hooks.calls),
        operations=plan.operations - unread,
        unused=tuple(name for name in model.parameters if name in unread),
        without_rule=tuple(name for name in plan.without_rule if name not in unread),
        own_leaves=bool(own_leaves) or fewer.has_gradient,
        reads=flow.reads,
    )


def _depends_on_others(losses: Tensor, sample: int, inputs: BatchInputs) -> bool:
    """Whether a loss has a gradient other than 0 at other samples' inputs, or another one beside other losses."""
    tensors = [tensor for tensor in tensors_of(inputs) if tensor.requires_grad]
    alone = torch.autograd.grad(losses[sample], tensors, retain_graph=True, allow_unused=True)
    together = torch.autograd.grad(losses.sum(), tensors, retain_graph=True, allow_unused=True)
    for own, gradient in zip(alone, together, strict=True):
        if own is None or gradient is None:
            continue
        if not _only(own.reshape(len(own), -1).ne(0).any(1), sample, 1) or not _close(gradient[sample], own[sample]):
            return True
    return False


def _names(plan: RulePlan, layers: Iterable[nn.Module]) -> set[str]:
    return {name for layer in layers for name in plan.layers[layer].values()}


def _nan_rows(gradient: Tensor) -> Tensor:
    """[rows, ...] -> [rows] bool."""
    return gradient.isnan().reshape(len(gradient), -1 if gradient.numel() else 0).any(1)


def _only(rows: Tensor, sample: int, rows_each: int) -> bool:
    """Whether nothing is set but rows of that sample, of which each sample has so many."""
    others = rows.clone()
    others[sample * rows_each : (sample + 1) * rows_each] = False
    return not others.any()


def perturbed(parameter: Tensor) -> Tensor:
    """The parameter with some noise: a model that adds up a leaf's rows would not show it on zeros."""
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(parameter)
    return parameter + 0.01 * (1 + parameter.abs()) * noise


def _rejected_leaves(plan: RulePlan, model: ModelParameters, inputs: BatchInputs, losses: Forward) -> set[str]:
    """The parameters whose leaf alone makes the model fail or changes its losses; where there is none, all."""
    rejected = set()
    for name in plan.leaves:
        value = perturbed(model.parameters[name])
        want = _losses_with(losses, inputs, plan, {name: value})
        try:
            got = _losses_with(losses, inputs, plan, {name: value.expand(len(inputs), *value.shape[1:])})
        except Exception:
            rejected.add(name)
        else:
            rejected |= set() if _close(got, want) else {name}
    return rejected or substituted_names(plan)


def _losses_with(losses: Forward, inputs: BatchInputs, plan: RulePlan, values: Mapping[str, Tensor]) -> Tensor:
    """The losses [B] with other values for parameters that the plan has leaves for."""
    with ExitStack() as stack, torch.no_grad():
        for name, value in values.items():
            module, local = plan.leaves[name]
            stack.callback(module._parameters.__setitem__, local, module._parameters[local])
            module._parameters[local] = value  # type: ignore[assignment]
        return losses(inputs)


def _close(got: Tensor, want: Tensor) -> bool:
    """Equal but for rounding, which may differ as memory is laid out otherwise."""
    tolerance = 1e-2 if got.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return torch.allclose(got.detach(), want, rtol=tolerance, atol=tolerance * float(want.abs().max()))
