"""Samples whose label is asked for, and the model that is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import unwrap_compile
from ..errors import ModelError
from .adapter import mistakes_named, read_logits
from .halving import Halving
from .inputs import BatchInputs, image_of, map_tensors, rows_of
from .labels import single_labels
from .model import ModelParameters, check_amp
from .training_data import TrainingData
from .unchanged import unchanged


@dataclass(frozen=True)
class Samples:
    """Samples and the labels that they bear, which they may not deserve.

    Attributes:
        data: The training data.
        labels: int64 [K].
        indices: int64 [K], of the training data; None for samples that are not of it.
        inputs: [K, ...], where they have been read.
    """

    data: TrainingData
    labels: Tensor
    indices: Tensor | None = None
    inputs: BatchInputs | None = None

    def batches(self) -> Iterator[tuple[BatchInputs, Tensor]]:
        """Inputs [B, ...] and labels int64 [B]."""
        start = 0
        for inputs in self._inputs():
            yield inputs, self.labels[start : start + len(inputs)]
            start += len(inputs)

    def _inputs(self) -> Iterator[BatchInputs]:
        if self.inputs is not None:
            for start in range(0, len(self), self.data.batch_size):
                yield self.inputs[start : start + self.data.batch_size]
        elif self.indices is not None:
            yield from (inputs for inputs, _ in self.data.batches(self.indices))

    def chosen(self, places: Tensor) -> Samples:
        """Some of them, at places [k]."""
        indices = None if self.indices is None else self.indices[places]
        inputs = None if self.inputs is None else rows_of(self.inputs, places)
        return Samples(self.data, self.labels[places], indices, inputs)

    def whole(self) -> BatchInputs:
        """All inputs in one batch, [K, ...]."""
        if self.inputs is not None:
            return self.inputs
        assert self.indices is not None
        return next(self.data.batches(self.indices, len(self)))[0]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Asked:
    """A model in evaluation mode, the data it is asked about, and how many samples it was given.

    Attributes:
        model: Without its wrapper of DistributedDataParallel.
        data: The training data.
        amp: The model runs under autocast to this dtype.
        progress: Show progress bars.
        forward: Samples that went through it.
    """

    model: nn.Module
    data: TrainingData
    amp: torch.dtype | None = None
    progress: bool = False
    forward: int = 0
    halving: Halving = field(default_factory=Halving)
    call: Callable[[nn.Module, BatchInputs], Tensor] = field(init=False, repr=False)
    device: torch.device = field(init=False)

    def log_p(self, inputs: BatchInputs, kept: Callable[[], None] | None = None) -> Tensor:
        """Log-probabilities float32 [B, C] of a batch, on the CPU.

        Args:
            inputs: [B, ...].
            kept: Called when a part of the batch has gone through: what hooks have noted is to be kept. The model is
                then called without torch.compile's wrapper, which passes hooks by.

        Raises:
            DataError: The model fails with these inputs.
            ModelError: The model does not give a row of finite logits for each sample.
            OutOfMemoryError: Not even one sample fits.
        """
        model = self.model if kept is None else unwrap_compile(self.model)
        numbers = torch.zeros(len(inputs), dtype=torch.long)  # what `Halving` cuts along
        with torch.inference_mode():
            parts = list(self.halving(lambda part, _: self._rows(model, part, kept), inputs, numbers))
        self.forward += len(inputs)
        return torch.cat(parts)

    @cached_property
    def classes(self) -> int:
        """C, from a forward pass of the training set's first sample."""
        return self.log_p(next(self.data.batches([0]))[0]).shape[1]

    def labels(self, indices: Tensor, data: TrainingData | None = None) -> Tensor:
        """Labels int64 [K] of samples of the training set, or of other data."""
        logits = torch.zeros(1, self.classes)
        batches = (self.data if data is None else data).batches(indices)
        return torch.cat([single_labels(logits.expand(len(part), -1), part) for _, part in batches])

    def _rows(self, model: nn.Module, inputs: BatchInputs, kept: Callable[[], None] | None) -> Tensor:
        with mistakes_named(inputs):
            logits = self.call(model, map_tensors(inputs, lambda tensor: tensor.to(self.device, non_blocking=True)))
        single_labels(logits, torch.zeros(len(inputs), dtype=torch.long))
        if not torch.isfinite(logits).all():
            raise ModelError("the model gives logits that are not finite; no label can be read off them")
        rows = logits.log_softmax(1).cpu()
        if kept is not None:
            kept()
        with torch.inference_mode(False):
            return rows.clone()  # an ordinary tensor, not one of inference mode


@contextmanager
def asked(
    model: nn.Module | ModelParameters, data: TrainingData, amp: torch.dtype | None = None, progress: bool = False
) -> Iterator[Asked]:
    """The model, ready to be asked for the length of the block; it is given back as it was."""
    check_amp(amp)
    parameters = ModelParameters.of(model)
    answering = Asked(parameters.wrapped, data, amp, progress)
    answering.device = parameters.device

    def logits_of(called: nn.Module, inputs: BatchInputs) -> Tensor:
        with torch.autocast(parameters.device.type, dtype=amp) if amp is not None else nullcontext():
            outputs: Any = data.adapter.call(called, inputs)
        return read_logits(outputs, data.adapter).float()

    with unchanged(parameters.wrapped) as watch:
        answering.call = watch.first_call(logits_of)
        yield answering


def best_other(log_p: Tensor, labels: Tensor) -> Tensor:
    """The most likely label other than the given one.

    Args:
        log_p: [K, C].
        labels: int64 [K].

    Returns:
        int64 [K].
    """
    return log_p.scatter(1, labels[:, None], -torch.inf).argmax(1)


def with_image(inputs: BatchInputs, image: Tensor) -> BatchInputs:
    """The same with another image in its place."""
    old = image_of(inputs)
    return map_tensors(inputs, lambda tensor: image if tensor is old else tensor)
