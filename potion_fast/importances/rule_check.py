"""Proves, on the first samples of a pass, that each rule may be used: nothing is taken on trust.

A rule reads the gradient of sample k off the rows of sample k. That is right if and only if the gradient of ℓ_k reaches
no other rows, and if no operation outside the layer reads the parameter. Position embeddings that are looked up once
for all samples, time-first sequences, weights used by name instead of by call: all of these look like layers with a
batch and are not. Two measurements tell them apart:

rows  the gradient of ℓ_k alone is made NaN, which every arithmetic passes on, even where a weight is 0: the rows that
      turn NaN are those that ℓ_k reaches
uses  every operation of the forward pass is watched for one that reads a parameter outside a call of its layer

A parameter that fails goes through torch.func or a loop. A sample that another sample's loss depends on is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import ImportanceError
from .fsdp_gather import Gathering
from .hooks import Call, Plan, candidates, tapped

SAMPLES = 3  # enough to tell "one sample's rows" from "all rows"; few, since each costs a backward pass
Forward = Callable[[Tensor], Tensor]  # inputs [B, ...] -> losses [B]


def check_no_batch_statistics(model: nn.Module) -> None:
    """Raise ImportanceError where a batch norm in eval mode would use the batch's statistics."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ImportanceError(
                f"layer {name!r} normalises with the statistics of the batch, which mixes its samples, so they have no "
                "gradients of their own; give it running statistics (track_running_stats=True) and keep it in eval mode"
            )


def proved(model: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Tensor, losses: Forward) -> Plan:
    """The plan that uses a rule wherever the first of the given samples, at least two, show that it is right.

    Parameters must be frozen. Raises ImportanceError where samples mix.
    """
    check_no_batch_statistics(model)
    plan, gathering = candidates(model, parameters), Gathering.of(model, parameters)
    while True:
        try:
            return _tested(plan, parameters, inputs[:SAMPLES], losses, gathering)
        except _Wrong as wrong:
            plan = _without(plan, wrong)
        except ImportanceError:
            raise
        except Exception:
            if not _stands_in(plan) or gathering is not None:
                raise  # the model itself fails
            plan = _without(plan, _Wrong(_not_taken(plan, parameters, inputs[:SAMPLES], losses)))


class _Wrong(Exception):  # noqa: N818 - not an error: it says what to do next
    """What the samples show to be wrong with a plan: parameters to leave to torch.func, layers to expand."""

    def __init__(self, names: set[str], expand: Iterable[nn.Module] = ()) -> None:
        super().__init__(sorted(names))
        self.names, self.expand = names, frozenset(expand)


def _stands_in(plan: Plan) -> set[str]:
    """The parameters whose leaf or expanded output stands in for what the model expects."""
    return set(plan.leaves) | {name for layer in plan.expanded for name in plan.layers[layer].values()}


def _without(plan: Plan, wrong: _Wrong) -> Plan:
    layers = {
        layer: kept
        for layer, own in plan.layers.items()
        if (kept := {local: name for local, name in own.items() if name not in wrong.names})
    }
    return replace(
        plan,
        layers=layers,
        leaves={name: place for name, place in plan.leaves.items() if name not in wrong.names},
        expanded=(plan.expanded | wrong.expand) & layers.keys(),
        left=(*plan.left, *sorted(wrong.names)),
    )


def _tested(
    plan: Plan, parameters: Mapping[str, nn.Parameter], inputs: Tensor, losses: Forward, gathering: Gathering | None
) -> Plan:
    """The plan with its calls and unused parameters filled in. Raises _Wrong, or ImportanceError where samples mix."""
    batch, sample = len(inputs), 0
    values = {name: _shaken(parameters[name]) for name in plan.leaves} if gathering is None else {}
    reached: dict[tuple[int, int], Tensor] = {}  # call, sample -> [rows] bool
    inputs_reached: dict[int, Tensor] = {}  # sample -> [B] bool

    def receive(call: Call, gradient: Tensor) -> None:
        reached[call.index, sample] = _nan_rows(gradient)

    with tapped(plan, receive, inputs.device) as taps, torch.autograd.set_detect_anomaly(False):
        with taps.forward(batch, values), Watch(plan, parameters, gathering) as watch:
            seen = inputs
            if inputs.is_floating_point():
                seen = taps.tracked(inputs)
                seen.register_hook(lambda gradient: inputs_reached.update({sample: _nan_rows(gradient)}))
            per_sample = losses(seen)
        single = {call.layer for call in taps.calls if call.rows == 1 and call.layer not in plan.expanded}
        uneven = {call.layer for call in taps.calls if call.rows % batch}
        if wrong := watch.outside | _names(plan, taps.unfit | (uneven - single)):
            raise _Wrong(wrong)
        if single:  # one output for all samples: try again with one for each
            raise _Wrong(set(), single)
        for sample in range(batch if per_sample.requires_grad else 0):
            seed = torch.zeros_like(per_sample)
            seed[sample] = torch.nan
            torch.autograd.backward(per_sample, seed, retain_graph=True)
            if sample in inputs_reached and not _only(inputs_reached[sample], sample, 1):
                raise ImportanceError(
                    f"the loss of sample {sample} depends on other samples of its batch, so they have no gradients of "
                    "their own; look for layers or losses that use statistics of the batch"
                )
            for name, leaf in taps.leaves.items():
                if leaf.grad is not None:
                    watch.read.add(name)
                    if not _only(_nan_rows(leaf.grad), sample, 1):
                        wrong.add(name)
                leaf.grad = None
    wrong |= _names(
        plan, {taps.calls[i].layer for (i, k), rows in reached.items() if not _only(rows, k, len(rows) // batch)}
    )
    if _stands_in(plan) and not _same(per_sample, _values_of(losses, inputs, plan, values)):
        wrong |= _not_taken(plan, parameters, inputs, losses) if gathering is None else _stands_in(plan)
    if wrong:
        raise _Wrong(wrong)
    calls = tuple((call.layer, call.rows // batch) for call in taps.calls)
    unread = watch.unread()
    return replace(
        plan,
        calls=calls,
        unused=tuple(name for name in parameters if name in unread),
        left=tuple(name for name in plan.left if name not in unread),
    )


def _names(plan: Plan, layers: Iterable[nn.Module]) -> set[str]:
    return {name for layer in layers for name in plan.layers[layer].values()}


def _nan_rows(gradient: Tensor) -> Tensor:
    """[rows, ...] -> [rows] bool."""
    return gradient.isnan().reshape(len(gradient), -1 if gradient.numel() else 0).any(1)


def _only(rows: Tensor, sample: int, each: int) -> bool:
    """Whether nothing is set but rows of that sample, of which each sample has so many."""
    others = rows.clone()
    others[sample * each : (sample + 1) * each] = False
    return not others.any()


def _shaken(parameter: Tensor) -> Tensor:
    """The parameter with some noise: a model that adds up a leaf's rows would not show it on zeros."""
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    return parameter + 0.01 * (1 + parameter.abs()) * noise


def _not_taken(plan: Plan, parameters: Mapping[str, nn.Parameter], inputs: Tensor, losses: Forward) -> set[str]:
    """The parameters whose leaf alone makes the model fail or changes its losses; where there is none, all."""
    wrong = set()
    for name in plan.leaves:
        value = _shaken(parameters[name])
        want = _values_of(losses, inputs, plan, {name: value})
        try:
            got = _values_of(losses, inputs, plan, {name: value.expand(len(inputs), *value.shape[1:])})
        except Exception:
            wrong.add(name)
        else:
            wrong |= set() if _same(got, want) else {name}
    return wrong or _stands_in(plan)


def _values_of(losses: Forward, inputs: Tensor, plan: Plan, values: Mapping[str, Tensor]) -> Tensor:
    """The losses [B] with other values for parameters that the plan has leaves for."""
    with ExitStack() as stack, torch.no_grad():
        for name, value in values.items():
            module, local = plan.leaves[name]
            stack.callback(module._parameters.__setitem__, local, module._parameters[local])
            module._parameters[local] = value  # type: ignore[assignment]
        return losses(inputs)


def _same(got: Tensor, want: Tensor) -> bool:
    """Equal but for rounding, which may differ as memory is laid out otherwise."""
    tolerance = 1e-2 if got.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return torch.allclose(got.detach(), want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


class Watch(TorchDispatchMode):
    """Sees every operation of a forward pass, below autograd, and which parameters' memory it reads.

    outside  parameters of layers of the plan that were read while another module, or none, was being called
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, nn.Parameter], gathering: Gathering | None = None) -> None:
        super().__init__()
        self.plan, self.gathering, self.names = plan, gathering, set(parameters)
        self.outside: set[str] = set()
        self.read: set[str] = set()
        self.inside: list[nn.Module] = []  # layers, and modules with leaves, that are being called, innermost last
        self.by_memory: dict[int, list[str]] = {}
        for name, parameter in parameters.items() if gathering is None else ():
            self.by_memory.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
        self.handles: list[Any] = []

    def __enter__(self) -> Watch:
        if self.gathering is not None:
            self.handles += self.gathering.hooks(self.by_memory)
        for layer in dict.fromkeys([*self.plan.layers, *(module for module, _ in self.plan.leaves.values())]):
            self.handles.append(layer.register_forward_pre_hook(lambda module, args: self.inside.append(module)))
            self.handles.append(layer.register_forward_hook(self._after, prepend=True))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*exception)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = self.plan.layers.get(self.inside[-1], {}).values() if self.inside else ()
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                for name in self.by_memory.get(tensor.untyped_storage().data_ptr(), ()):
                    self.read.add(name)
                    if name not in own and name not in self.plan.left and not self._stood_in(name):
                        self.outside.add(name)
        return function(*args, **(kwargs or {}))

    def _stood_in(self, name: str) -> bool:
        """Whether a leaf is in the parameter's place: always, but for one that is gathered as its module is called."""
        return name in self.plan.leaves and (self.gathering is None or self.plan.leaves[name][0] in self.inside)

    def unread(self) -> set[str]:
        """Parameters that no operation read: their gradient is 0."""
        return self.names - self.read
