"""Eval mode for a block, after which the model is as it was: weights, buffers, attributes, hooks and modes.

A forward pass may write to the model: nn.Embedding(max_norm=...) shortens the rows that it reads, layers keep features,
counters and caches, adapters merge themselves in eval mode. A weight is copied when it is about to be written to: a
dispatch mode sees the operations of the first call. What a model writes to at all, it writes to there.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from ..distributed.fsdp import fsdp_modules, is_sharded
from ..errors import ModelError
from .model import evaluating

Result = TypeVar("Result")

SMALL = 1 << 16  # elements of a buffer that is copied in any case: kernels of batch norms write without saying so
MANY = 10_000  # entries of a container that is not looked through
DEPTH = 3  # of containers within each other that are
CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)


@contextmanager
def unchanged(model: nn.Module, only_on_failure: bool = False) -> Iterator[Watch]:
    """Eval mode for the block, see `evaluating`; afterwards the model is as it was, whether the block failed or not.

    Watched for writes are `eval`, `train` and the first call of what `Watch.first_call` gives. A model that FSDP2 has
    sharded, or whose layers are lazy, is set to eval mode only.

    Args:
        model: The model.
        only_on_failure: Put back what has changed only where the block fails; the modes in any case.

    Raises:
        ModelError: A parameter was written to after the first call alone, and is not as it was.
    """
    watch = Watch()
    tensors = [*model.parameters(), *model.buffers()]
    if not fsdp_modules(model) and not any(is_sharded(tensor) or is_lazy(tensor) for tensor in tensors):
        watch.snapshot(model)
    with ExitStack() as stack:
        stack.callback(watch.restore)
        with watch.watching():
            mode = ExitStack()
            mode.enter_context(evaluating(model))
        stack.callback(watch.watched, mode.close)
        yield watch
        if only_on_failure:
            watch.forget()
        watch.check()


class Watch:
    """What a model was before a block, and what has been written to since.

    Attributes:
        wrote: Whether anything had to be put back.
    """

    def __init__(self) -> None:
        self.modules: list[tuple[nn.Module, dict[str, Any]]] = []
        self.containers: list[_Container] = []
        self.tensors: list[_Tensor] = []
        self.writes = _Writes()
        self.wrote = False

    def snapshot(self, model: nn.Module) -> None:
        """Note everything that the model is, without a copy of its weights."""
        seen: dict[int, Any] = {}
        with torch.inference_mode(False), torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                self._note(name, tensor, seen, DEPTH)
            for name, module in model.named_modules():
                self.modules.append((module, dict(vars(module))))
                for attribute, value in vars(module).items():
                    self._note(f"{name}.{attribute}", value, seen, DEPTH)
        self.writes.find(self.tensors)

    def _note(self, name: str, value: Any, seen: dict[int, Any], depth: int) -> None:
        if id(value) in seen:
            return
        if isinstance(value, Tensor):
            seen[id(value)] = value
            self.tensors.append(_Tensor.of(name, value))
            if value.is_leaf and value.grad is not None:
                self._note(f"{name}.grad", value.grad, seen, depth)
        elif type(value) in (tuple, *CONTAINERS) and depth and len(value) < MANY:
            seen[id(value)] = value
            if not isinstance(value, tuple):
                self.containers.append(_Container(value, _entries(value)))
            for entry in value.values() if isinstance(value, dict) else value:
                self._note(name, entry, seen, depth - 1)

    def first_call(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, watched the first time that it is called: that costs a little for each operation."""
        called = False

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Result:
            nonlocal called
            if called:
                return function(*args, **keywords)
            called = True
            return self.watched(function, *args, **keywords)

        return call

    def watched(self, function: Callable[..., Result], *args: Any, **keywords: Any) -> Result:
        """What the function gives."""
        with self.watching():
            return function(*args, **keywords)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the block's operations."""
        if not self.tensors:
            yield
            return
        with self.writes:
            yield

    def check(self) -> None:
        """Raise ModelError where a parameter is not as it was and there is no copy of it."""
        for noted in self.tensors:
            if isinstance(noted.tensor, nn.Parameter) and noted.written_unseen:
                raise ModelError(
                    f"the model has written to its parameter {noted.name!r} in its forward pass, and not when it was "
                    "first called; a pass needs weights that stay as they are"
                )

    def forget(self) -> None:
        """Leave the model as it is now."""
        self.modules, self.containers, self.tensors = [], [], []

    def forget_values(self) -> None:
        """Leave weights and buffers as they are now; attributes are put back all the same."""
        self.tensors = []

    def kept_graphs(self) -> list[Callable[[], object]]:
        """What puts back the attributes and containers in which the model has left what autograd has a graph of.

        A cache of what follows from parameters, filled by the first call, has a gradient in that call alone.
        """
        found: list[Callable[[], object]] = []
        for module, attributes in self.modules:
            for name, value in vars(module).items():
                if value is not attributes.get(name, module) and _has_graph(value, DEPTH):
                    found.append(functools.partial(_put_back, module, name, attributes))
        return found + [part.restore for part in self.containers if _has_graph(part.value, DEPTH)]

    def restore(self) -> None:
        """Put back whatever is another now."""
        with torch.inference_mode(False), torch.no_grad():
            for module, attributes in self.modules:
                now = vars(module)
                if len(now) != len(attributes) or not all(map(operator.is_, now.values(), attributes.values())):
                    self.wrote = True
                    for name in now.keys() - attributes.keys():
                        del now[name]
                    now.update(attributes)
            parts: list[_Container | _Tensor] = [*self.containers, *self.tensors]
            for part in parts:
                self.wrote |= part.restore()


def _has_graph(value: Any, depth: int) -> bool:
    """Whether something is, or holds, a tensor that autograd has a graph of."""
    if isinstance(value, Tensor):
        return value.grad_fn is not None
    if type(value) not in (tuple, *CONTAINERS) or not depth or len(value) >= MANY:
        return False
    return any(_has_graph(entry, depth - 1) for entry in (value.values() if isinstance(value, dict) else value))


def _put_back(module: nn.Module, name: str, attributes: dict[str, Any]) -> None:
    """Give a module's attribute the value that it had, or none."""
    if name in attributes:
        vars(module)[name] = attributes[name]
    else:
        vars(module).pop(name, None)


@dataclass
class _Container:
    """A list, dict, set or deque that a module holds, and its entries."""

    value: Any
    entries: list[Any]

    def restore(self) -> bool:
        """Put the entries back; whether there were others."""
        now = _entries(self.value)
        if len(now) == len(self.entries) and all(map(operator.is_, now, self.entries)):
            return False
        self.value.clear()
        if isinstance(self.value, dict):
            half = len(self.entries) // 2
            self.value.update(zip(self.entries[:half], self.entries[half:], strict=True))
        elif isinstance(self.value, set):
            self.value.update(self.entries)
        else:
            self.value.extend(self.entries)
        return True


def _entries(value: Any) -> list[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)


@dataclass
class _Tensor:
    """A tensor of a model, its memory, and a copy of its values once it is or may be written to.

    Attributes:
        name: Of the tensor, for messages.
        tensor: The tensor.
        memory: An alias: the tensor may be given other memory.
        requires_grad: As it was.
        grad: As it was.
        version: Of its memory, where there is one.
        copied: Its values, once they are copied.
    """

    name: str
    tensor: Tensor
    memory: Tensor
    requires_grad: bool
    grad: Tensor | None
    version: int | None
    copied: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> _Tensor:
        """A tensor as it is now."""
        version = None if tensor.is_inference() else tensor._version
        noted = cls(name, tensor, tensor.data, tensor.requires_grad, tensor.grad if tensor.is_leaf else None, version)
        if not isinstance(tensor, nn.Parameter) and tensor.numel() <= SMALL:
            noted.copy()
        return noted

    @property
    def written_unseen(self) -> bool:
        """Whether it was written to and there is no copy."""
        return self.copied is None and self.version is not None and self.tensor._version != self.version

    def copy(self) -> None:
        """Copy its values, unless they are."""
        if self.copied is None and self.memory.layout == torch.strided and not self.memory.is_meta:
            self.copied = self.memory.clone()

    def restore(self) -> bool:
        """Put back what is another now; whether its values were."""
        tensor, wrote = self.tensor, False
        if _place(tensor) != _place(self.memory):
            tensor.data = self.memory
            wrote = True
        if self.copied is not None:
            wrote |= not torch.equal(self.memory, self.copied)
            with torch.inference_mode(tensor.is_inference()):
                self.memory.copy_(self.copied)  # in any case: 0 and −0 are equal
        if tensor.is_leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad
        if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        return wrote


def _place(tensor: Tensor) -> Any:
    """Where a tensor lies in memory, and how."""
    strided = tensor.layout == torch.strided
    return (tensor.data_ptr(), tensor.stride(), tensor.shape, tensor.dtype) if strided else tensor.layout


class _Writes(TorchDispatchMode):
    """Copies tensors of the model just before an operation writes to their memory."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.by_memory: dict[int, list[_Tensor]] = {}
        self.written: dict[Any, list[Any]] = {}  # operation -> its arguments that it writes to

    def find(self, tensors: list[_Tensor]) -> None:
        """Note where in memory the tensors lie."""
        for noted in tensors:
            if (key := _storage(noted.memory)) is not None:
                self.by_memory.setdefault(key, []).append(noted)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in self.written:
            self.written[function] = _written_arguments(function)
        for place, name in self.written[function]:
            value = args[place] if place < len(args) else kwargs.get(name)
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, Tensor) and (key := _storage(tensor)) is not None:
                    for noted in self.by_memory.get(key, ()):
                        noted.copy()
        return function(*args, **kwargs)


def _written_arguments(function: Any) -> list[tuple[int, str]]:
    """Place and name of each argument that an operation writes to."""
    arguments = getattr(getattr(function, "_schema", None), "arguments", ())
    return [
        (place, argument.name)
        for place, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _storage(tensor: Tensor) -> int | None:
    """What tells the memory of a tensor from other memory; None where it has none of its own."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return None
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a wrapper of torch.func, say
        return None
