"""Compiled forward and backward passes over a batch."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from ..errors import ImportanceError
from ..utils import memory
from ..utils.inputs import BatchInputs, shape_key
from .hooks import LayerCall, expanded_parameter, first_input, substituted
from .rule_plan import RulePlan
from .rules import rule_for

EAGER_BATCHES = 2  # of a shape that go through the model as it is, before that shape is compiled
COMPILED_SHAPES = 4  # at most

Shape = tuple[torch.Size, torch.dtype]
BatchShape = tuple[object, ...]  # see `shape_key`
TracedLosses = Callable[
    [BatchInputs, Tensor | None], Tensor
]  # inputs [B, ...], labels [B] -> losses [B]; reads no values


class ShapeCounter:
    """Tells which batches are worth a compilation: those of a few shapes, each from its third batch on."""

    def __init__(self) -> None:
        self.before: Counter[BatchShape] = Counter()
        self.compiled: set[BatchShape] = set()

    def is_frequent(self, inputs: BatchInputs) -> bool:
        """Whether this batch is; to be called once for each."""
        shape = shape_key(inputs)
        if self.before[shape] >= EAGER_BATCHES and len(self.compiled) < COMPILED_SHAPES:
            self.compiled.add(shape)
        self.before[shape] += 1
        return shape in self.compiled


class Outputs(NamedTuple):
    """Outputs of a compiled forward pass.

    Attributes:
        losses: [B].
        calls: Of the layers, in order.
        sources: What was added to each call's output: its gradient is the output's.
        leaves: [B, ...], by the name of their parameter.
    """

    losses: Tensor
    calls: list[LayerCall]
    sources: list[Tensor]
    leaves: dict[str, Tensor]

    @property
    def edges(self) -> dict[str, GradientEdge]:
        """None: no rules go by operation, see `LayerHooks.edges`."""
        return {}

    def gradients(self, output: Tensor, sources: Sequence[Any]) -> tuple[Tensor | None, ...]:
        """The backward pass, see `torch.autograd.grad`."""
        with compiling():
            return torch.autograd.grad(output, sources, allow_unused=True)


class Compiled:
    """Compiled forward and backward passes over batches of frequent shapes.

    Compiled code calls no hook when a gradient is computed. So a zero, which is an input of the compiled function, is
    added to the output of each layer, and the layers' inputs are outputs of it in addition to the losses. All of it is
    alive at once, where `LayerHooks` frees each tensor as soon as it is used.

    Args:
        losses: Of the whole batch; traced by torch.compile.
        checked: The same losses, or an error where they are not finite.
    """

    def __init__(self, losses: TracedLosses, checked: Callable[[Tensor], Tensor]) -> None:
        self.losses, self.checked = losses, checked
        self.zeros: list[Tensor] = []
        self.calls: list[tuple[nn.Module, Tensor]] = []
        self.hook = self._after_call  # one object: torch.compile would start anew for another
        self.function = torch.compile(with_own_code(self._function), fullgraph=True, dynamic=False)
        self.forget()

    def forget(self) -> None:
        """Start anew, for another plan."""
        self.counter = ShapeCounter()
        self.outputs: dict[BatchShape, list[Shape]] = {}  # of the calls, for a batch of a shape

    def learn(self, inputs: BatchInputs, calls: list[LayerCall]) -> None:
        """Take note of a batch that went through the model as it is, with these calls."""
        self.outputs[shape_key(inputs)] = [(call.size, call.dtype) for call in calls]

    def takes(self, inputs: BatchInputs) -> bool:
        """Whether a batch is to go through the compiled function; to be called once for each."""
        return self.counter.is_frequent(inputs) and shape_key(inputs) in self.outputs

    def forward(
        self, plan: RulePlan, parameters: Mapping[str, nn.Parameter], inputs: BatchInputs, labels: Tensor | None
    ) -> Outputs:
        """One forward pass.

        Raises:
            ImportanceError: torch.compile does not take the model or the objective.
        """
        zeros = [
            torch.zeros((), dtype=dtype, device=inputs.device).expand(size).requires_grad_()
            for size, dtype in self.outputs[shape_key(inputs)]
        ]
        leaves = {name: expanded_parameter(parameters[name], len(inputs)) for name in plan.leaves}
        with ExitStack() as stack:
            for layer in plan.layers:
                stack.callback(layer.register_forward_hook(self.hook, prepend=True, with_kwargs=True).remove)
            for name, (module, local) in plan.leaves.items():
                stack.enter_context(substituted(module, local, leaves[name]))
            with compiling():
                losses, layer_inputs = self.function(inputs, labels, zeros)
        self.zeros, self.calls = [], []  # the batch's memory is the caller's
        calls = []
        for index, ((layer, layer_input), zero) in enumerate(zip(layer_inputs, zeros, strict=True)):
            rule = rule_for(layer)
            assert rule is not None
            version, own = layer_input._version, plan.layers[layer]
            calls.append(LayerCall(index, layer, rule, layer_input, version, zero.shape, zero.dtype, own))
        return Outputs(self.checked(losses), calls, zeros, leaves)

    def _function(
        self, inputs: BatchInputs, labels: Tensor | None, zeros: list[Tensor]
    ) -> tuple[Tensor, list[tuple[nn.Module, Tensor]]]:
        self.zeros, self.calls = zeros, []
        return self.losses(inputs, labels), self.calls

    def _after_call(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Forward hook of every layer of the plan."""
        if not torch.is_grad_enabled():
            return output
        zero, inputs = self.zeros[len(self.calls)], first_input(args, kwargs).detach()
        if len(output) != len(zero):  # one output for all samples
            inputs = inputs.expand(len(zero), *inputs.shape[1:])
        self.calls.append((layer, inputs))
        return output + zero


def with_own_code(method: Any) -> Any:
    """The same method of the same object: torch.compile counts by code object, and refuses the ninth compilation."""
    function = method.__func__
    copied = types.FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    return types.MethodType(copied, method.__self__)


@contextmanager
def compiling() -> Iterator[None]:
    """An error in the block is torch.compile's: the model has taken batches of this shape without it."""
    try:
        yield
    except Exception as error:
        if memory.ran_out(error):
            raise
        why = next(iter(str(error).strip().splitlines()), "")
        raise ImportanceError(
            f"torch.compile does not take this model and objective ({type(error).__name__}: {why}); leave out compiled"
        ) from error
