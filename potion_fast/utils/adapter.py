"""Adapter between the batches of a loader, a model, and its outputs."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import DataError, ModelError, PotionError
from .inputs import BatchInputs, Inputs, as_inputs, as_tensor, tensors_of
from .memory import ran_out

LABELS = ("labels", "label", "label_ids")  # keys of the labels in a batch that is a mapping

INPUTS = re.compile("shape|size|dimension|channels|index out of range|out of bounds|NoneType|specify")  # in errors

Model = Callable[..., Any]


class Adapter:
    """How a batch is read, a model is called with it, and logits are read off its output.

    This one knows the batches that data loaders give, Hugging Face's among them:

    - (input, label, ...), whose further entries are ignored, (input,), or an input alone;
    - in place of the input several: ((x1, x2), label) for `model(x1, x2)`, ({"a": x1, "b": x2}, label) for
      `model(a=x1, b=x2)`;
    - a mapping, such as a dict or a BatchEncoding: "labels", "label" or "label_ids" are the labels, which the model
      does not get, and all the rest are keyword arguments (`pixel_values`, `input_ids`, `attention_mask`, ...).

    NumPy arrays are taken as tensors. The model's output is a tensor, or has its logits as an attribute or a key
    `logits`. For anything else, override one of the three methods in a subclass and give an instance of it.
    """

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and labels of a batch.

        Args:
            batch: As the loader gave it.

        Returns:
            The inputs: a tensor [B, ...], a tuple of them (positional arguments) or a mapping (keyword arguments); and
            the labels, one for each sample, or None.
        """
        if isinstance(batch, tuple | list) and batch:
            inputs, labels = batch[0], batch[1] if len(batch) > 1 else None
            if isinstance(inputs, Mapping):
                inputs, own = _without_labels(inputs)
                if own is not None and labels is not None:
                    raise DataError("the loader gave a batch with labels in its mapping and after it; leave one out")
                labels = labels if own is None else own
            return inputs, labels
        return _without_labels(batch) if isinstance(batch, Mapping) else (batch, None)

    def call(self, model: Model, inputs: Any) -> Any:
        """The model's output.

        Args:
            model: The model, or what stands for it.
            inputs: A tensor [B, ...], or `Inputs`, whose `args` and `kwargs` hold the arguments.

        Raises:
            DataError: The model takes other arguments, or other dtypes.
        """
        try:
            return model(*inputs.args, **inputs.kwargs) if isinstance(inputs, Inputs) else model(inputs)
        except (TypeError, RuntimeError) as error:
            if found := _mistake(error, inputs):
                raise DataError(found) from error
            raise

    def logits(self, outputs: Any) -> Tensor:
        """The logits [B, C] in a model's output, for the built-in objectives and the accuracy.

        Raises:
            ModelError: The output is no tensor and has no `logits`.
        """
        if isinstance(outputs, Tensor):
            return outputs
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"the model gives a {type(outputs).__name__} without logits; give an adapter whose `logits` takes them "
                "out of it (potion_fast.Adapter), or for importances a callable (outputs, labels) -> losses"
            )
        return logits


class OneLogitAdapter(Adapter):
    """For a model of two classes with one output column z, whose probability of class 1 is sigmoid(z).

    Its logits are (0, z): the softmax of these is that sigmoid, their cross-entropy the binary one, their norm |z|, and
    the larger of them is z where z > 0.
    """

    def logits(self, outputs: Any) -> Tensor:
        """[B, 1] or [B] -> [B, 2].

        Raises:
            ModelError: There is another number of columns.
        """
        z = super().logits(outputs)
        if z.ndim > 2 or z.shape[1:] not in ((), (1,)):
            raise ModelError(f"OneLogitAdapter is for outputs [B, 1] or [B], the model gives {list(z.shape)}")
        z = z.reshape(-1, 1)
        return torch.cat([torch.zeros_like(z), z], 1)


DEFAULT = Adapter()


def adapter_or_default(adapter: Adapter | None) -> Adapter:
    """The caller's adapter, or the default one.

    Raises:
        DataError: It is none.
    """
    if adapter is None:
        return DEFAULT
    if not isinstance(adapter, Adapter):
        raise DataError(f"adapter is an instance of potion_fast.Adapter or of a subclass, not {adapter!r}")
    return adapter


def read_batch(batch: object, adapter: Adapter = DEFAULT) -> tuple[BatchInputs, Tensor | None]:
    """Inputs and labels of a batch, checked.

    Returns:
        Inputs [B, ...], and labels [B, ...] or None where the batch has none.

    Raises:
        DataError: They are no tensors or arrays, or differ in number.
    """
    parts = adapter.split(batch)
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise DataError(f"{type(adapter).__name__}.split must return inputs and labels (or None), not {_kind(parts)}")
    given, given_labels = parts
    labels = as_tensor(given_labels)
    if isinstance(given_labels, int | float) or (labels is not None and labels.ndim == 0):
        raise DataError("the loader gives single samples, each with a label, not batches; wrap it in a DataLoader")
    inputs = as_inputs(given)
    if given_labels is None:
        return inputs, None
    if labels is None:
        raise DataError(
            f"the loader must give labels as a tensor [B], not as a {type(given_labels).__name__}: "
            "an adapter can make one of it (potion_fast.Adapter)"
        )
    if len(labels) != len(inputs):
        raise DataError(
            f"the loader gave a batch whose inputs and labels differ in number: {len(inputs)} and {len(labels)}"
        )
    return inputs, labels


def read_logits(outputs: object, adapter: Adapter = DEFAULT) -> Tensor:
    """The logits in a model's output, checked.

    Raises:
        ModelError: There are none, or they are no tensor [B, ...].
    """
    logits = adapter.logits(outputs)
    if not isinstance(logits, Tensor) or not logits.ndim:
        raise ModelError(f"{type(adapter).__name__}.logits must return a tensor [B, C], not {_kind(logits)}")
    if not logits.is_floating_point() or logits.layout != torch.strided:
        kind = logits.dtype if logits.layout == torch.strided else logits.layout
        raise ModelError(
            f"the model gives logits that are {kind}; they must be real numbers with a gradient, in a dense tensor, as "
            "they are before an argmax or a rounding"
        )
    return logits


def _kind(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _mistake(error: TypeError | RuntimeError, inputs: BatchInputs) -> str | None:
    """What is wrong with the inputs of a batch, if it is that what made a model fail."""
    text = _first_line(error)
    if isinstance(error, TypeError) and ("argument" in text and "forward" in text):
        return (
            f"the model cannot be called with the inputs of a batch: {text}; "
            "change the batches, or give an adapter that does (potion_fast.Adapter)"
        )
    if isinstance(error, RuntimeError) and re.search("dtype|scalar type|Input type|not implemented for '", text):
        dtypes = ", ".join(str(tensor.dtype) for tensor in tensors_of(inputs))
        return f"the model cannot compute with inputs of {dtypes}: {text}; convert them, say to its weights' dtype"
    return None


@contextmanager
def mistakes_named(inputs: BatchInputs) -> Iterator[None]:
    """Say in one sentence that a model fails with inputs of other shapes, values or names than it was made for.

    Args:
        inputs: Those that it is called with in the block, [B, ...].

    Raises:
        DataError: In place of the error that a call of the model by an adapter raised.
    """
    try:
        yield
    except (RuntimeError, ValueError, IndexError, AttributeError) as error:
        foreign = isinstance(error, PotionError) or ran_out(error) or not INPUTS.search(str(error))
        if foreign or not _within_call(error):
            raise
        places = inputs.places if isinstance(inputs, Inputs) else ["inputs"]
        given = ", ".join(f"{place} {list(x.shape)}" for place, x in zip(places, tensors_of(inputs), strict=True))
        raise DataError(
            f"the model fails with a batch of {given}: {_first_line(error)}; give it inputs that it was made for, or "
            "an adapter that does (potion_fast.Adapter)"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".;")


def _within_call(error: BaseException) -> bool:
    return any(frame.f_code.co_name == "call" for frame, _ in traceback.walk_tb(error.__traceback__))


def _without_labels(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    entries = dict(batch)
    key = next((key for key in LABELS if key in entries), None)
    return entries, None if key is None else entries.pop(key)


class _Called(nn.Module):
    """A model as an adapter calls it, so that functional_call may exchange its parameters for the whole call."""

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.model, self.adapter = model, adapter

    def forward(self, inputs: BatchInputs) -> Any:
        return self.adapter.call(self.model, inputs)


def functional_outputs(
    adapter: Adapter, model: nn.Module, parameters: Mapping[str, Tensor], inputs: BatchInputs
) -> Any:
    """The model's output with other parameters, by name."""
    if adapter is DEFAULT and isinstance(inputs, Tensor):
        return functional_call(model, dict(parameters), (inputs,))
    named = {f"model.{name}": value for name, value in parameters.items()}
    return functional_call(_Called(model, adapter), named, (inputs,))
