"""Inputs of a batch: a tensor, or several that a model takes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
        places: Of the tensors among them: positions and names.

    Raises:
        DataError: The tensors differ in their number of samples, there is none, or an entry is of another kind.
    """

    def __init__(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.args = tuple(_entry(value, f"input {place}") for place, value in enumerate(args))
        self.kwargs = {str(key): _entry(value, f"entry {key!r}") for key, value in (kwargs or {}).items()}
        entries: list[tuple[int | str, object]] = [*enumerate(self.args), *self.kwargs.items()]
        self.places = tuple(place for place, value in entries if isinstance(value, Tensor))
        if not self.places:
            raise DataError("the loader gave a batch without an input tensor")
        sizes = [len(tensor) for tensor in self.tensors]
        if len(set(sizes)) > 1:
            names = [f"input {place}" if isinstance(place, int) else f"entry {place!r}" for place in self.places]
            given = ", ".join(f"{size} in {name}" for size, name in zip(sizes, names, strict=True))
            raise DataError(
                f"the tensors of a batch must hold the same number of samples, there are {given}; what is not of the "
                "samples belongs into the model, or into an adapter"
            )

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, in the order of their places."""
        return [self.args[place] if isinstance(place, int) else self.kwargs[place] for place in self.places]

    @property
    def device(self) -> torch.device:
        """Of the first tensor."""
        return self.tensors[0].device

    def __len__(self) -> int:
        return len(self.tensors[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with a function of each tensor in its place."""
        return self.with_tensors([function(tensor) for tensor in self.tensors])

    def with_tensors(self, tensors: Iterable[Any]) -> Inputs:
        """The same with others in place of the tensors; under vmap and in trees they are no ordinary ones."""
        at = dict(zip(self.places, tensors, strict=True))
        made = Inputs.__new__(Inputs)
        made.args = tuple(at.get(place, value) for place, value in enumerate(self.args))
        made.kwargs = {key: at.get(key, value) for key, value in self.kwargs.items()}
        made.places = self.places
        return made

    def __getitem__(self, part: slice | int | Tensor) -> Inputs:
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

    def form(self) -> tuple[object, ...]:
        """All but the tensors: what must be the same in batches whose samples are put together."""
        bare = self.with_tensors([None] * len(self.places))
        return bare.args, tuple(bare.kwargs.items()), bare.places


def _flatten(inputs: Inputs) -> tuple[list[Any], Any]:
    """The tensors are the children; all else, which vmap must not touch, is the context."""
    return inputs.tensors, inputs.form()


def _unflatten(children: Iterable[Any], form: Any) -> Inputs:
    made = Inputs.__new__(Inputs)
    made.args, made.kwargs, made.places = form[0], dict(form[1]), form[2]
    return made.with_tensors(children)


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
        if given.is_meta:
            raise DataError("the loader gave a tensor on the meta device, which has no values; give one that has")
        return given if given.grad_fn is None else given.detach()  # its graph can be gone through only once
    if not isinstance(given, np.ndarray | np.generic):
        return None
    try:
        return torch.from_numpy(np.array(given))  # a copy: tensors can be written to, a read-only array cannot
    except TypeError:
        raise DataError(f"the loader gave a NumPy array of dtype {given.dtype}, which no tensor has") from None


def _entry(value: object, name: str) -> Any:
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


def image_of(inputs: BatchInputs) -> Tensor | None:
    """The one input that is an image, [B, C, H, W] or [B, H, W, C]; None where there is none, or several."""
    found = [tensor for tensor in tensors_of(inputs) if tensor.ndim == 4]
    return found[0] if len(found) == 1 else None


def values_of(inputs: BatchInputs) -> Tensor | None:
    """The one input that has real values at fixed places: the image, or real numbers [B, ...]; None without one."""
    if (image := image_of(inputs)) is not None:
        return image
    found = [tensor for tensor in tensors_of(inputs) if tensor.ndim >= 2 and tensor.is_floating_point()]
    return found[0] if len(found) == 1 else None


def rows_of(inputs: BatchInputs, rows: Tensor) -> BatchInputs:
    """Some of the samples [B, ...] of a batch."""
    return map_tensors(inputs, lambda tensor: tensor[rows])


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
    if not all(isinstance(part, Inputs) and part.form() == first.form() for part in parts):
        raise DataError("the loader gives batches with different entries, whose samples cannot be put together")
    columns = zip(*(tensors_of(part) for part in parts), strict=True)
    return first.with_tensors([torch.cat(column) for column in columns])


def shape_key(inputs: BatchInputs) -> tuple[object, ...]:
    """What tells batches of other shapes, dtypes or entries apart."""
    shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors_of(inputs))
    return shapes if isinstance(inputs, Tensor) else (*shapes, inputs.form())


def samples_key(inputs: BatchInputs) -> tuple[object, ...]:
    """What tells samples apart that cannot stand in one batch: other shapes, devices or entries."""
    shapes = tuple((tensor.shape[1:], tensor.device) for tensor in tensors_of(inputs))
    return shapes if isinstance(inputs, Tensor) else (*shapes, inputs.form())
