"""Forward hooks that record each layer's input and the gradient at its output, while its parameters are frozen.

A frozen parameter costs autograd nothing: the backward pass computes gradients at activations only, and a rule's
product takes the place of the ordinary weight gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, _engine_run_backward

from ..errors import ImportanceError
from ..utils.model import ModelParameters
from .activation_checkpointing import check_not_checkpointed
from .derived import DerivedWeight
from .operation_rules import Operation
from .operations import OperationMode, Use, within_transform
from .rule_plan import RulePlan
from .rules import Rule, rule_for


@dataclass
class LayerCall:
    """One call of a layer, or of an operation, in the current forward pass.

    Attributes:
        index: Among all calls.
        layer: The layer, or what stands for it in the operation's rule.
        rule: Its rule.
        inputs: Its input, until its gradient has come.
        version: Of the input's memory.
        size: Of its output.
        dtype: Of its output.
        own: Name within the layer -> name of the parameter.
        derived: Name within the layer -> a weight that was computed from parameters.
        shapes: Name within the layer -> shape of the weight, of an operation's.
    """

    index: int
    layer: nn.Module | Operation
    rule: Rule
    inputs: Tensor | None
    version: int
    size: torch.Size
    dtype: torch.dtype
    own: Mapping[str, str]
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The parameters that it uses, as often as it does."""
        return [*self.own.values(), *(name for weight in self.derived.values() for name in weight.edges)]

    @property
    def kind(self) -> str:
        """Of layer or operation, for messages."""
        return self.layer.kind if isinstance(self.layer, Operation) else type(self.layer).__name__

    @property
    def rows(self) -> int:
        """Rows of the output, dimension 0."""
        return self.size[0]

    def take_inputs(self) -> Tensor:
        """The inputs, which are then forgotten.

        Raises:
            ImportanceError: The model has overwritten them, or they were taken before.
        """
        inputs = self.inputs
        if inputs is None:
            raise ImportanceError("a layer's output got its gradient twice; run each batch through the model once")
        if inputs._version != self.version:
            raise ImportanceError(
                f"the input of a {self.kind} was changed in place after the layer had used it; "
                "its gradient is lost. Make that operation out of place"
            )
        self.inputs = None
        return inputs


OnGradient = Callable[[LayerCall, Tensor], None]  # a call and the gradient at its output


@dataclass
class LayerHooks:
    """Hooks on the layers of a plan, and what they have recorded of one forward pass.

    Attributes:
        plan: The plan.
        on_gradient: Called with each call and the gradient at its output.
        anchor: Requires gradients, and so does all that passes a hook.
        batch: Samples of the forward pass.
        recording: A forward pass is running.
        calls: Of the layers, in order.
        leaves: [B, ...], by the name of their parameter.
        unfit: Layers called in a way that their rule is not right for.
        early: Parameters of layers at whose output a gradient came while the forward pass was running: the model
            differentiates within it, and what comes afterwards is not their whole gradient.
        model: Whose operations are seen, where the plan has some.
        mode: That sees them, of the last forward pass.
        watch: Called with each call, its input and its output.
        until_closed: Undone when the hooks are taken off.
    """

    plan: RulePlan
    on_gradient: OnGradient
    anchor: Tensor
    model: ModelParameters | None = None
    mode: OperationMode | None = None
    watch: Callable[[LayerCall, Tensor, Tensor], None] | None = None
    batch: int = 0
    recording: bool = False
    calls: list[LayerCall] = field(default_factory=list)
    leaves: dict[str, Tensor] = field(default_factory=dict)
    unfit: set[nn.Module] = field(default_factory=set)
    early: set[str] = field(default_factory=set)
    until_closed: ExitStack = field(default_factory=ExitStack)

    @property
    def sources(self) -> list[Tensor]:
        """What a backward pass must reach, so that it passes all hooks."""
        return [self.anchor]

    @property
    def misread(self) -> set[str]:
        """Parameters that some operation has read in a way that no rule is known for."""
        return set() if self.mode is None else self.mode.unfit

    @property
    def edges(self) -> dict[str, GradientEdge]:
        """Where a gradient comes out that no recorded operation has given, by the parameter's name."""
        return {} if self.mode is None else self.mode.edges

    @contextmanager
    def forward(self, batch: int, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Record the calls of the block, one forward pass.

        What it puts in the places of parameters stays there until the hooks are taken off, for recomputations.

        Args:
            batch: Samples of it.
            values: Of the leaves, by name. A leaf without one takes the value that its parameter has when its module
                is called.
        """
        self.batch, self.calls, self.recording = batch, [], True
        self.leaves = {name: expanded_parameter(values[name], batch) for name in self.plan.leaves if name in values}
        self.mode = self._operation_mode() if self.plan.operations else None  # before leaves are in parameters' places
        try:
            with ExitStack() as stack:
                for name, (module, local) in self.plan.leaves.items():
                    if name in values:
                        self.until_closed.enter_context(substituted(module, local, self.leaves[name]))
                    else:
                        self._substitute_when_called(stack, name, module, local)
                if self.mode is not None:
                    self.until_closed.enter_context(self.mode.tracking())
                    stack.enter_context(self.mode)
                yield
        finally:
            self.recording = False

    def gradients(
        self, output: Tensor, sources: Sequence[Any], seed: Tensor | None = None, retain_graph: bool = False
    ) -> tuple[Tensor | None, ...]:
        """The backward pass, see `torch.autograd.grad`.

        What activation checkpointing recomputes in it passes the same mode as in the forward pass. Of autograd's own
        functions, which a mode sees as one operation, only the innermost lets it do so.
        """
        if self.mode is None:
            return torch.autograd.grad(output, sources, seed, retain_graph=retain_graph, allow_unused=True)
        seed = torch.ones_like(output) if seed is None else seed
        with self.mode:
            return _engine_run_backward(
                (output,), (seed,), retain_graph, False, tuple(sources), True, accumulate_grad=False
            )

    def _operation_mode(self) -> OperationMode:
        assert self.model is not None
        return OperationMode(self.model, self.plan.operations, self.batch, self.tracked, self._record)

    def _record(self, use: Use, output: Tensor) -> None:
        """Called with every operation of the mode, and the tensor whose gradient its rule needs."""
        if not self.recording:
            return
        inputs = use.inputs.detach()
        self._called(
            LayerCall(
                len(self.calls),
                use.operation,
                use.rule,
                inputs,
                inputs._version,
                output.shape,
                output.dtype,
                use.own,
                use.derived,
                use.shapes,
            ),
            output,
        )

    def _called(self, call: LayerCall, output: Tensor) -> None:
        self.calls.append(call)
        if self.watch is not None:
            assert call.inputs is not None
            self.watch(call, call.inputs, output)
        output.register_hook(functools.partial(self._gradient, call))

    def _substitute_when_called(self, stack: ExitStack, name: str, module: nn.Module, local: str) -> None:
        """FSDP2 puts the whole parameter in place just before the call, and takes it away after it."""
        whole: list[Any] = []

        def before(module: nn.Module, args: Any) -> None:
            whole.append(module._parameters[local])
            self.leaves[name] = self.leaves.get(name, expanded_parameter(whole[-1], self.batch))
            module._parameters[local] = self.leaves[name]  # type: ignore[assignment]

        def after(module: nn.Module, args: Any, output: Any) -> None:
            module._parameters[local] = whole.pop()

        stack.callback(module.register_forward_pre_hook(before).remove)
        stack.callback(module.register_forward_hook(after, prepend=True, always_call=True).remove)

    def after_call(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of every layer of the plan.

        A call under `no_grad` is left as it is: its share of the gradient is 0. One that comes after the forward pass
        is a recomputation of activation checkpointing, for which autograd must see what it has seen before.
        """
        if not torch.is_grad_enabled():
            check_not_checkpointed()
            return None
        if not self.recording:
            requires_none = isinstance(output, Tensor) and not output.requires_grad
            return self.tracked(output) if requires_none else None
        inputs = first_input(args, kwargs)
        rule = rule_for(layer)
        if rule is None or within_transform() or not rule.fits(inputs, output):
            self.unfit.add(layer)
            return None
        if layer in self.plan.expanded:
            inputs, output = (t.expand(self.batch, *t.shape[1:]) for t in (inputs, output))
        if not output.requires_grad:
            output = self.tracked(output)
        own, index = self.plan.layers[layer], len(self.calls)
        call = LayerCall(index, layer, rule, inputs.detach(), inputs._version, output.shape, output.dtype, own)
        self._called(call, output)
        if self.mode is not None:
            self.mode.forget(output)
        return output

    def _gradient(self, call: LayerCall, gradient: Tensor) -> None:
        if self.recording:
            self.early.update(call.names)
        else:
            with torch._C.DisableTorchFunction():
                self.on_gradient(call, gradient)

    def tracked(self, tensor: Tensor) -> Tensor:
        """The same values, requiring gradients; not a leaf, so that the model may change them in place."""
        return _Tracked.apply(tensor, self.anchor)


def leaves_of(losses: Tensor, known: Iterable[Tensor]) -> list[Tensor]:
    """The leaves of a graph of autograd but for some: what the model itself has set to require gradients."""
    left_out = {id(tensor) for tensor in known}
    seen: set[Any] = set()
    leaves, waiting = [], [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in left_out:
            leaves.append(leaf)
        waiting += [following for following, _ in node.next_functions]
    return leaves


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first argument of a call."""
    return args[0] if args else next(iter(kwargs.values()))


def expanded_parameter(value: Tensor, batch: int) -> Tensor:
    """A leaf in place of a parameter, requiring gradients: [1, ...] -> [B, ...]."""
    return value.detach().expand(batch, *value.shape[1:]).requires_grad_()


@contextmanager
def substituted(module: nn.Module, local: str, value: Tensor) -> Iterator[None]:
    """A tensor in place of a parameter for the block."""
    parameter = module._parameters[local]
    module._parameters[local] = value  # type: ignore[assignment]
    try:
        yield
    finally:
        module._parameters[local] = parameter


class _Tracked(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor, anchor: Tensor) -> Tensor:
        return tensor.detach()  # not the tensor itself: autograd would take the result for a view of it

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        return gradient if context.needs_input_grad[0] else None, gradient.new_zeros(())


@contextmanager
def layer_hooks(
    plan: RulePlan, on_gradient: OnGradient, device: torch.device, model: ModelParameters | None = None
) -> Iterator[LayerHooks]:
    """Hooks on all layers of the plan for the block, before any hook of the user's."""
    hooks = LayerHooks(plan, on_gradient, torch.zeros((), device=device, requires_grad=True), model)
    with ExitStack() as stack:
        for layer in plan.layers:
            handle = layer.register_forward_hook(hooks.after_call, prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(hooks.until_closed)
        yield hooks


@contextmanager
def frozen(module: nn.Module, compiled: bool = False) -> Iterator[None]:
    """No parameter requires gradients in the block, and no module runs in another form than its Python code.

    That undoes the fused path of nn.TransformerEncoder, whose inner layers hooks do not see, and torch.compile.

    Args:
        module: The model.
        compiled: Leave torch.compile in force.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        torch.backends.mha.set_fastpath_enabled(False)
        with nullcontext() if compiled else torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trainable:
            parameter.requires_grad_(True)
