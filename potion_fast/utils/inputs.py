"""Inputs of a batch: a tensor, or several that a model takes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from ..errors import DataError

CONSTANTS = (type(None), bool, int, float, str)  # passed on to the model with every part of the batch


class Inputs:
    """Several input tensors of a batch, for a model that is called as `model(*args, **kwargs)`.

    It is cut, moved and joined as a tensor is: all of its tensors at once, along dimension 0.

    Attributes:
        args: Positional arguments: tensors [B, ...], and None, numbers and texts, which are the same for all samples.
        kwargs: Keyword arguments, likewise.

    Raises:
        DataError: The tensors differ in their number of samples, there is none, or an entry is of another kind.
    """

    def __init__(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.args = tuple(_entry(value, f"input {place}") for place, value in enumerate(args))
        self.kwargs = {str(key): _entry(value, f"entry {key!r}") for key, value in (kwargs or {}).items()}
        named = [(f"input {place}", value) for place, value in enumerate(self.args)]
        named += [(f"entry {key!r}", value) for key, value in self.kwargs.items()]
        sizes = {name: len(value) for name, value in named if isinstance(value, Tensor)}
        if not sizes:
            raise DataError("the loader gave a batch without an input tensor")
        if len(set(sizes.values())) > 1:
            given = ", ".join(f"{count} in {name}" for name, count in sizes.items())
            raise DataError(
                f"the tensors of a batch must hold the same number of samples, there are {given}; what is not of the "
                "samples belongs into the model, or into an adapter"
            )

    @classmethod
    def _of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """Without checks: under vmap the entries are no ordinary tensors, in a tree of specifications none at all."""
        made = cls.__new__(cls)
        made.args, made.kwargs = args, kwargs
        return made

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the entries, in their order."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]

    @property
    def device(self) -> torch.device:
        """Of the first tensor."""
        return self.tensors[0].device

    def __len__(self) -> int:
        return len(self.tensors[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with a function of each tensor in its place."""
        args = tuple(function(value) if isinstance(value, Tensor) else value for value in self.args)
        items = self.kwargs.items()
        return Inputs._of(args, {key: function(value) if isinstance(value, Tensor) else value for key, value in items})

    def __getitem__(self, part: slice | int) -> Inputs:
        return self.map(lambda tensor: tensor[part])

    def to(self, *args: Any, **keywords: Any) -> Inputs:
        """As `Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **keywords))

    def cpu(self) -> Inputs:
        """As `Tensor.cpu`."""
        return self.map(lambda tensor: tensor.cpu())

    def clone(self) -> Inputs:
        """As `Tensor.clone`."""
        return self.map(lambda tensor: tensor.clone())

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Inputs:
        """As `Tensor.unflatten`; of dimension 0."""
        return self.map(lambda tensor: tensor.unflatten(dim, sizes))

    def constants(self) -> tuple[object, ...]:
        """The entries that are no tensors, each with its place."""
        entries = [*enumerate(self.args), *self.kwargs.items()]
        return tuple((place, None if isinstance(value, Tensor) else (value,)) for place, value in entries)


def _flatten(inputs: Inputs) -> tuple[list[Any], Any]:
    """The tensors are the children; all else, which vmap must not touch, is the context."""
    args = tuple(None if isinstance(value, Tensor) else (value,) for value in inputs.args)
    kwargs = tuple((k, None if isinstance(value, Tensor) else (value,)) for k, value in inputs.kwargs.items())
    return inputs.tensors, (args, kwargs)


def _unflatten(children: Any, context: Any) -> Inputs:
    tensors, (args, kwargs) = iter(children), context
    own = tuple(next(tensors) if constant is None else constant[0] for constant in args)
    return Inputs._of(own, {k: next(tensors) if constant is None else constant[0] for k, constant in kwargs})


register_pytree_node(Inputs, _flatten, _unflatten, serialized_type_name="potion_fast.Inputs")

BatchInputs = Tensor | Inputs


def as_inputs(given: object) -> BatchInputs:
    """What a loader or an adapter gave as the inputs of a batch.

    Args:
        given: A tensor or array [B, ...], a tuple or list of them, for positional arguments, or a mapping, for keyword
            arguments.

    Raises:
        DataError: It is something else, or see `Inputs`.
    """
    if isinstance(given, Mapping):
        return Inputs((), given)
    if isinstance(given, tuple | list):
        return Inputs(given)
    if isinstance(given, Inputs):
        return given
    inputs = as_tensor(given)
    if inputs is None:
        raise DataError(
            f"the loader must give batches of tensors, (input, label, ...) or a mapping, and gave a "
            f"{type(given).__name__} as input; an adapter can make other batches out of it (potion_fast.Adapter)"
        )
    if inputs.ndim == 0:
        raise DataError("the loader gives single samples, not batches [B, ...]; wrap it in a DataLoader")
    return inputs


def as_tensor(given: object) -> Tensor | None:
    """A tensor, or an array as one; None for anything else.

    Raises:
        DataError: An array of a dtype that tensors do not have.
    """
    if isinstance(given, Tensor):
        if given.layout != torch.strided or given.is_nested:
            kind = "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
            advice = "pad it, with torch.nested.to_padded_tensor" if given.is_nested else "give it dense (.to_dense())"
            raise DataError(f"the loader gave a tensor that is {kind}, and samples are cut out of dense ones; {advice}")
        return given
    if not isinstance(given, np.ndarray | np.generic):
        return None
    try:
        return torch.from_numpy(np.array(given))  # a copy: tensors can be written to, a read-only array cannot
    except TypeError:
        raise DataError(f"the loader gave a NumPy array of dtype {given.dtype}, which no tensor has") from None


def _entry(value: object, name: str) -> object:
    tensor = as_tensor(value)
    if tensor is None:
        if isinstance(value, CONSTANTS):
            return value
        raise DataError(
            f"{name} of a batch is a {type(value).__name__}; a model gets tensors [B, ...], None, numbers and texts: "
            "take it out of the batches, or give an adapter that does (potion_fast.Adapter)"
        )
    if tensor.ndim == 0:
        raise DataError(f"{name} of a batch is a tensor without a batch dimension; it must be [B, ...]")
    return tensor


def tensors_of(inputs: BatchInputs) -> list[Tensor]:
    """The tensors of a batch's inputs."""
    return [inputs] if isinstance(inputs, Tensor) else inputs.tensors


def map_tensors(inputs: BatchInputs, function: Callable[[Tensor], Tensor]) -> BatchInputs:
    """The inputs with a function of each tensor in its place."""
    return function(inputs) if isinstance(inputs, Tensor) else inputs.map(function)


def concatenated(parts: Sequence[BatchInputs]) -> BatchInputs:
    """The samples of several batches in one.

    Raises:
        DataError: They have other entries, or other values in an entry that is no tensor.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        if not all(isinstance(part, Tensor) for part in parts):
            raise DataError("the loader gives batches of one input and batches of several")
        return torch.cat(list(parts))  # type: ignore[arg-type]
    if not all(isinstance(part, Inputs) and part.constants() == first.constants() for part in parts):
        raise DataError("the loader gives batches with different entries, whose samples cannot be put together")
    columns = zip(*(tensors_of(part) for part in parts), strict=True)
    return _unflatten([torch.cat(column) for column in columns], _flatten(first)[1])


def shape_key(inputs: BatchInputs) -> tuple[object, ...]:
    """What tells batches of other shapes, dtypes or entries apart."""
    shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors_of(inputs))
    return shapes if isinstance(inputs, Tensor) else (*shapes, inputs.constants())


def samples_key(inputs: BatchInputs) -> tuple[object, ...]:
    """What tells samples apart that cannot stand in one batch: other shapes, devices or entries."""
    shapes = tuple((tensor.shape[1:], tensor.device) for tensor in tensors_of(inputs))
    return shapes if isinstance(inputs, Tensor) else (*shapes, inputs.constants())
