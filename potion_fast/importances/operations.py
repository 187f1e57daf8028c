"""Parameters that no layer's rule covers, found in the operations that read them.

An operation of data with a parameter, or with a tensor computed from parameters alone, is recorded like the call of a
layer: with its input and the gradient at its output. It gets the weight without its graph. So a gradient that arrives
at the parameter itself comes from an operation that was not recorded: without one, none is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import ImportanceError
from ..utils.model import ModelParameters
from .data_flow import is_checkpointing
from .derived import DerivedWeight, is_reshaped
from .operation_rules import ELEMENTWISE, FACTORIES, OPERATIONS, Operation, Reading
from .rules import BroadcastRule, Rule


class Known(NamedTuple):
    """A tensor that does not depend on data.

    Attributes:
        tensor: Kept, so that no other gets its `id`.
        version: Of its memory; None for a parameter.
        names: The trainable parameters that it was computed from.
    """

    tensor: Tensor
    version: int | None
    names: frozenset[str]


class Use(NamedTuple):
    """An operation's use of parameters.

    Attributes:
        operation: It.
        rule: Its rule.
        inputs: Its input.
        own: Name of a weight within the rule -> the parameter that it is, or is a reshaped view of.
        derived: Name of a weight within the rule -> the weight, where it was computed from parameters.
        shapes: Of the weights, by their names within the rule.
    """

    operation: Operation
    rule: Rule
    inputs: Tensor
    own: dict[str, str]
    derived: dict[str, DerivedWeight]
    shapes: dict[str, torch.Size]


class OperationMode(TorchFunctionMode):
    """Sees the operations of a forward pass.

    Args:
        model: Its parameters frozen, but for those that no operation has read so far.
        names: Those that operations are recorded of.
        batch: Samples of the forward pass.
        tracked: See `LayerHooks.tracked`.
        record: Takes note of a use, and of the tensor whose gradient its rule needs.

    Attributes:
        edges: Where the gradients of `names` come out.
        unfit: Names that some operation has read in a way that no rule is known for.
    """

    def __init__(
        self,
        model: ModelParameters,
        names: frozenset[str],
        batch: int,
        tracked: Callable[[Tensor], Tensor],
        record: Callable[[Use, Tensor], None],
    ) -> None:
        super().__init__()
        self.parameters, self.names, self.batch = model.parameters, names, batch
        self.tracked, self.record = tracked, record
        self.unfit: set[str] = set()
        self.known: dict[int, Known] = {}
        for buffer in model.module.buffers():
            self.known[id(buffer)] = Known(buffer, version_of(buffer), frozenset())
        by_parameter = {id(parameter): name for name, parameter in model.parameters.items()}
        for parameter in model.module.parameters():
            if not parameter.requires_grad:
                name = by_parameter.get(id(parameter))
                self.known[id(parameter)] = Known(parameter, None, frozenset() if name is None else frozenset({name}))
        self.edges: dict[str, GradientEdge] = {}

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """The parameters require gradients in the block, in which the mode may be entered again and again."""
        for name in self.names:
            self.edges[name] = get_gradient_edge(self.parameters[name].requires_grad_(True))
        try:
            yield
        finally:
            self.known.clear()
            for name in self.names:
                self.parameters[name].requires_grad_(False)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
        known = [self._known(tensor) for tensor in tensors]
        of_parameters = [entry for entry in known if entry is not None]
        if not of_parameters:
            output = function(*args, **kwargs)
            if not tensors and function in FACTORIES:
                self._remember(output, frozenset())
            return output
        names = frozenset().union(*(entry.names for entry in of_parameters))
        if len(of_parameters) == len(tensors) and not (names and self._spreads(function, args)):
            with own_graph() if names and is_checkpointing() else nullcontext():
                output = function(*args, **kwargs)
            self._remember(output, names)
            return output
        if not names:
            return function(*args, **kwargs)
        # A parameter without a gradient, or one that a transform or a recomputation gives it.
        if within_transform() or not torch.is_grad_enabled():
            self.unfit |= names & self.names
            return function(*args, **kwargs)
        weights = {id(entry.tensor): entry for entry in of_parameters if entry.tensor.requires_grad}  # each once
        if not weights:
            return function(*args, **kwargs)
        names = frozenset().union(*(entry.names for entry in weights.values()))
        if names and names <= self.names:
            recorded = self._recorded(function, args, kwargs, [entry.tensor for entry in weights.values()])
            if recorded is not None:
                return recorded
        output = function(*args, **kwargs)
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output)):
            self.unfit |= names & self.names
        return output

    def forget(self, tensor: Tensor) -> None:
        """From here on a tensor is data: it is a layer's output that has a hook."""
        self.known.pop(id(tensor), None)

    def reached_from(self, losses: Tensor) -> set[str]:
        """The names whose gradient some operation that was not recorded gives."""
        names = {edge.node: name for name, edge in self.edges.items()}
        waiting, seen, reached = [losses.grad_fn], set(), set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in names:
                reached.add(names[node])
            waiting += [following for following, _ in node.next_functions]
        return reached

    def _known(self, tensor: Tensor) -> Known | None:
        entry = self.known.get(id(tensor))
        if entry is None or (entry.version is not None and entry.version != version_of(tensor)):
            return None
        return entry

    def _remember(self, output: Any, names: frozenset[str]) -> None:
        for tensor in tensors_in((output,)):
            if id(tensor) not in self.known or self.known[id(tensor)].version is not None:
                self.known[id(tensor)] = Known(tensor, version_of(tensor), names)

    def _spreads(self, function: Any, args: Any) -> bool:
        """Whether a weight is given a dimension of samples."""
        return function in (Tensor.expand, Tensor.repeat) and sizes_of(args)[:1] == (self.batch,)

    def _recorded(self, function: Any, args: Any, kwargs: Any, weights: list[Tensor]) -> Any:
        """The operation's output, recorded; None where no rule is known for it."""
        if self._spreads(function, args):
            sizes = sizes_of(args)
            if function is Tensor.repeat:  # the leaf has that many rows already
                args = (args[0], 1, *sizes[1:])
            return self._by_leaf(function, args, kwargs, weights, torch.Size([self.batch, *[1] * (len(sizes) - 1)]))
        if function in ELEMENTWISE and "out" not in kwargs:
            tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
            return self._by_leaf(function, args, kwargs, weights, torch.broadcast_shapes(*(t.shape for t in tensors)))
        describe = OPERATIONS.get(function)
        try:
            reading = None if describe is None else describe(*args, **kwargs)
        except TypeError:  # another form of its arguments
            reading = None
        return None if reading is None else self._by_rule(function, args, kwargs, weights, reading)

    def _by_leaf(self, function: Any, args: Any, kwargs: Any, weights: list[Tensor], shape: torch.Size) -> Any:
        """Of an operation that broadcasts: with one copy of the weight for each row, as a leaf of autograd."""
        leaves: dict[int, Tensor] = {}
        data = [t for t in (*tensors_in(args), *tensors_in(kwargs.values())) if self._known(t) is None]
        for weight in weights:
            own = [1] * (len(shape) - weight.dim()) + list(weight.shape)
            if (
                not shape
                or own[0] != 1
                or len(own) > len(shape)
                or id(weight) in map(id, args[:1])
                and in_place(function)
            ):
                return None
            value = weight.detach()
            if weight.dim() == 0 and data and data[0].is_floating_point():
                value = value.to(data[0].dtype)  # as a number, it does not change the dtype of the result
            leaves[id(weight)] = self.tracked(value.view(own).expand(shape[0], *own[1:]))
        for weight in weights:
            leaf = leaves[id(weight)]
            use = self._use(function, BroadcastRule(), leaf.new_empty(len(leaf), 0), {"weight": weight}, {})
            self.record(use, leaf)
        return function(*replaced(args, leaves), **replaced(kwargs, leaves))

    def _by_rule(self, function: Any, args: Any, kwargs: Any, weights: list[Tensor], reading: Reading) -> Any:
        used = {name: w for name, w in reading.weights.items() if any(w is weight for weight in weights)}
        if self._known(reading.inputs) is not None or any(all(w is not u for u in used.values()) for w in weights):
            return None
        plain = {id(weight): weight.detach() for weight in weights}
        output = function(*replaced(args, plain), **replaced(kwargs, plain))
        use = self._use(function, reading.rule, reading.inputs, used, reading.settings)
        if not reading.rule.fits(reading.inputs, output):
            self.unfit.update(use.operation.names)
            return output
        output = self.tracked(output)  # also a view, or what a leaf of the model's own makes
        self.record(use, output)
        return output

    def _use(
        self, function: Any, rule: Rule, inputs: Tensor, weights: dict[str, Tensor], settings: dict[str, Any]
    ) -> Use:
        own: dict[str, str] = {}
        derived: dict[str, DerivedWeight] = {}
        names: list[str] = []
        for local, weight in weights.items():
            of_weight = sorted(self.known[id(weight)].names)
            names += of_weight
            if len(of_weight) == 1 and is_reshaped(weight, self.parameters[of_weight[0]]):
                own[local] = of_weight[0]
            else:
                derived[local] = DerivedWeight(weight, {name: self.edges[name] for name in of_weight})
        shapes = {local: weight.shape for local, weight in weights.items()}
        operation = Operation(function.__name__, tuple(names), {**settings, "shapes": shapes})
        return Use(operation, rule, inputs, own, derived, shapes)


def own_graph() -> saved_tensors_hooks:
    """For the block, operations whose graph keeps its tensors, within activation checkpointing."""

    def unpacked(packed: tuple[Tensor, int]) -> Tensor:
        tensor, version = packed
        if version != version_of(tensor):
            raise ImportanceError("a parameter was changed in place after a weight had been computed from it")
        return tensor

    return saved_tensors_hooks(lambda tensor: (tensor, version_of(tensor)), unpacked)


def within_transform() -> bool:
    """Whether a transform of torch.func, such as vmap or jvp, is calling: its tensors are not the batch's."""
    return peek_interpreter_stack() is not None


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among some values, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)


def replaced(values: Any, tensors: Mapping[int, Tensor]) -> Any:
    """The arguments with other tensors in place of some."""
    if isinstance(values, Mapping):
        return {name: tensors.get(id(value), value) for name, value in values.items()}
    return tuple(tensors.get(id(value), value) for value in values)


def sizes_of(args: Any) -> tuple[int, ...]:
    """The sizes given to a method of a tensor, one by one or as one argument; none where they are given by name."""
    return tuple(args[1]) if len(args) == 2 and isinstance(args[1], (tuple, list)) else tuple(args[1:])


def in_place(function: Any) -> bool:
    """Whether an operation writes its first argument."""
    name = function.__name__
    return name.endswith("_") and not name.endswith("__") or name.startswith("__i")


def version_of(tensor: Tensor) -> int:
    """How often its memory was written; 0 where that is not counted."""
    return 0 if tensor.is_inference() else tensor._version
