"""Checks of a model on a few samples of a pass: that losses have gradients, repeat themselves, and do not mix samples.

A sample's gradient is its own if and only if its loss is the same in whatever batch it stands. So the losses of a
batch are compared with those of a few of its samples alone: on the batches 1, 2, 4, 8, ... of a pass, whose share of
its time falls as it gets longer. Losses differ by rounding too, more so in half precision, or where a convolution has
another algorithm for one sample than for many. What differs by more than a little is compared again in float64, where
rounding is gone and mixing is not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ImportanceError
from ..utils.adapter import Adapter, functional_outputs
from ..utils.inputs import BatchInputs, concatenated, map_tensors, samples_key
from ..utils.memory import ran_out
from ..utils.model import ModelParameters
from .activation_checkpointing import check_not_checkpointed, check_not_reentrant
from .hooks import frozen

FEW = 3  # samples of the first batch
AMONG = 8  # samples of a small batch, some of them more than once, among which a sample is put
DRAWS = 4  # more forward passes of a model that draws random numbers, which may seldom matter
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-5}  # of losses, as a share of the batch's largest
HALF_TOLERANCE = 2e-2
TF32_TOLERANCE = 5e-3  # a GPU's convolutions in float32 may have an error of this size
COARSE = 10  # times the tolerance: more than rounding, where float64 cannot be had

EXACT = 1e-7  # the same in float64, of a model that may have constants in float32
MIXED = (
    "the loss of a sample depends on other samples of its batch, so they have no gradients of their own; look for "
    "layers or losses that use statistics of the batch"
)

Model = Callable[[BatchInputs], Any]  # inputs [B, ...] -> outputs
Sample = tuple[BatchInputs, Tensor | None, Tensor]  # input [1, ...], label [1, ...], loss [1]


class Losses(Protocol):
    """(model, inputs [B, ...], labels [B] or None) -> losses [B]; exact: without autocast."""

    def __call__(self, model: Model, inputs: BatchInputs, labels: Tensor | None, exact: bool = False) -> Tensor:
        """[B]."""
        ...


class SampleChecks:
    """Checks of one model and one objective.

    Args:
        model: The model.
        losses: Its losses, see `Losses`.
        adapter: Calls the model.
        half: It runs under autocast.

    Attributes:
        connected: Parameters that the losses of the first samples have a gradient by; None before that is known.
        random: The model's losses are not the same each time.
    """

    def __init__(self, model: ModelParameters, losses: Losses, adapter: Adapter, half: bool) -> None:
        self.model, self.losses, self.adapter, self.half = model, losses, adapter, half
        self.connected: set[str] | None = None
        self.random = False
        self.batches = 0
        self.tolerance: float | None = None
        self.kept: Sample | None = None  # the last batch of one
        self.largest = 0  # samples of a batch that was compared
        self.among_few = False  # the first samples have stood in a batch

    # --- The first samples: gradients, and random numbers -----------------------------------------------------------

    def inspect(self, inputs: BatchInputs, labels: Tensor | None, may_mix: bool) -> None:
        """Check the first samples of a pass.

        Args:
            inputs: [B, ...].
            labels: [B, ...] or None.
            may_mix: Samples of a batch may depend on each other.

        Raises:
            ImportanceError: Their losses have no gradient, or one that a pass cannot get; or samples mix.
        """
        inputs, labels = inputs[:FEW], None if labels is None else labels[:FEW]
        with random_numbers_kept(self.model.device), torch.compiler.set_stance("force_eager"):
            before = random_state(self.model.device)
            leaves: list[Tensor] = []
            with checkpointing_refused(self.model):
                losses = self.losses(self._call, map_tensors(inputs, partial(differentiable, leaves=leaves)), labels)
            drawn = not torch.equal(before, random_state(self.model.device))
            self.connected = self._connected(losses.sum(), leaves)
            if not (losses.requires_grad if self.connected is None else self.connected):
                raise ImportanceError(
                    "no loss depends on a trainable parameter, so all importances would be 0; look for detach(), "
                    "no_grad or inference_mode in the model's forward, and for adapters that merge themselves into "
                    "frozen weights in eval mode"
                )
            losses = losses.detach()
            with frozen(self.model.module), torch.no_grad():
                self.random = self._is_random(losses, inputs, labels, drawn)
                if len(inputs) > 1 and not self.random and not may_mix:
                    self._compare(inputs, labels, losses, range(len(inputs)))

    def _connected(self, loss: Tensor, leaves: list[Tensor]) -> set[str] | None:
        """Parameters that a loss has a gradient by; None where the model has no ordinary backward pass.

        The pass goes back to the inputs, and so through all that a reentrant checkpoint holds.
        """
        named = self.model.parameters
        if not loss.requires_grad:
            return set()
        try:
            gradients = torch.autograd.grad(loss, [*named.values(), *leaves], allow_unused=True)
        except Exception as error:  # the pass says what is wrong, or gets along
            check_not_reentrant(error)
            return None
        return {name for name, gradient in zip(named, gradients, strict=False) if gradient is not None}

    def _is_random(self, losses: Tensor, inputs: BatchInputs, labels: Tensor | None, drawn: bool) -> bool:
        """Whether losses differ from one forward pass to the next."""
        dtype = self._computed_in(losses)
        tolerance = 1e-6 if drawn and dtype in TOLERANCE and not self.half else self._tolerance(dtype)
        for _ in range(DRAWS if drawn else 1):
            again = self.losses(self._call, inputs, labels)
            if bool((again - losses).abs().max() > tolerance * losses.abs().max()):
                return True
        return False

    def _call(self, inputs: BatchInputs) -> Any:
        return self.adapter.call(self.model.module, inputs)

    # --- Samples that mix -------------------------------------------------------------------------------------------

    def compare(self, inputs: BatchInputs, labels: Tensor | None, losses: Tensor) -> None:
        """Compare the losses of a batch with those of some of its samples alone, if it is this batch's turn.

        Args:
            inputs: [B, ...].
            labels: [B, ...] or None.
            losses: [B], of the whole batch.

        Raises:
            ImportanceError: They differ.
        """
        self.batches += 1
        larger = len(inputs) > 2 * self.largest  # than any batch that was compared
        if self.random or not (larger or self.batches & (self.batches - 1) == 0 or not self.among_few):
            return
        self.largest = max(self.largest, len(inputs))
        losses = losses.detach()
        with random_numbers_kept(self.model.device), frozen(self.model.module), torch.no_grad(), memory_may_run_out():
            if len(inputs) > 1:
                self._compare(inputs, labels, losses, self._picked(len(inputs), AMONG if larger else 2))
                if larger and len(inputs) > AMONG:
                    self._compare_halves(inputs, labels, losses)
            if not self.among_few:
                self._compare_among_few(inputs, labels, losses)

    def _picked(self, batch: int, count: int) -> list[int]:
        """Samples that are compared: at the end, where a batch that is too long is cut, and elsewhere each time."""
        last, turn = batch - 1, self.batches // 2 if count < AMONG else 0
        return sorted({(last - k * batch // count - (turn if k else 0)) % batch for k in range(count)})

    def _compare_among_few(self, inputs: BatchInputs, labels: Tensor | None, losses: Tensor) -> None:
        """Put samples of a small batch into one of several: what mixes them may show in a larger batch alone."""
        if len(inputs) == 1:
            previous, self.kept = self.kept, (inputs, labels, losses)
            if previous is None or not alike(previous, self.kept):
                return
            inputs = concatenated([previous[0], inputs])
            labels = None if labels is None or previous[1] is None else torch.cat([previous[1], labels])
        self.among_few, self.kept = True, None
        if len(inputs) < AMONG:
            inputs, labels = taken(inputs, labels, torch.arange(AMONG, device=losses.device) % len(inputs))
            self._compare(inputs, labels, self.losses(self._call, inputs, labels), [0, AMONG - 1])

    def _compare(self, inputs: BatchInputs, labels: Tensor | None, losses: Tensor, picked: Sequence[int]) -> None:
        dtype = self._computed_in(losses)
        for k in picked:
            alone = self._alone(self._call, inputs, labels, k)
            scale = float(torch.maximum(losses.abs().max(), alone.abs().max()))
            size = float((alone - losses[k]).abs()) / scale if scale else 0.0
            if size > self._tolerance(dtype) and self._differ_in_float64(inputs, labels, dtype, size, k):
                raise ImportanceError(MIXED)

    def _compare_halves(self, inputs: BatchInputs, labels: Tensor | None, losses: Tensor) -> None:
        """Compare all losses with those in batches of half as many; then the sample alone whose loss differs most."""
        dtype = self._computed_in(losses)
        for first in (0, 1):
            half = torch.arange(first, len(inputs), 2, device=losses.device)  # not a slice: some models take no view
            error = (self.losses(self._call, *taken(inputs, labels, half)) - losses[half]).abs()
            if float(error.max()) > self._tolerance(dtype) * float(losses.abs().max()):
                self._compare(inputs, labels, losses, [first + 2 * int(error.argmax())])

    def _alone(self, call: Model, inputs: BatchInputs, labels: Tensor | None, k: int, exact: bool = False) -> Tensor:
        """The loss of a sample, a number: alone, or twice in a batch where the model does not take single ones."""
        try:
            return self.losses(call, *taken(inputs, labels, slice(k, k + 1)), exact=exact)[0]
        except Exception as error:
            if ran_out(error) or "CUDA error" in str(error):
                raise
        return self.losses(call, *taken(inputs, labels, [k, k]), exact=exact)[0]

    def _computed_in(self, losses: Tensor) -> torch.dtype:
        """The dtype that losses have the rounding of: a model in float32 may give its output, or a loss, in float64."""
        exact = all(parameter.dtype == torch.float64 for parameter in self.model.parameters.values())
        return torch.float32 if losses.dtype == torch.float64 and not exact else losses.dtype

    def _tolerance(self, dtype: torch.dtype) -> float:
        """Share of the losses below which a difference is taken for rounding."""
        if self.tolerance is None:
            parameters = self.model.parameters.values()
            half = self.half or any(p.dtype in (torch.float16, torch.bfloat16) for p in parameters)
            self.tolerance = HALF_TOLERANCE if half else TOLERANCE.get(dtype, HALF_TOLERANCE)
            if dtype == torch.float32 and self.model.device.type == "cuda":
                self.tolerance = max(self.tolerance, TF32_TOLERANCE)
        return self.tolerance

    def _differ_in_float64(
        self, inputs: BatchInputs, labels: Tensor | None, dtype: torch.dtype, size: float, k: int
    ) -> bool:
        """Whether a difference between losses is more than rounding; if not, its size is tolerated from now on.

        It is looked for among a few samples, and in the whole batch where it is large.
        """
        if dtype == torch.float64 or not math.isfinite(size):
            return True
        coarse, number = size > COARSE * self._tolerance(dtype), len(inputs)
        few = sorted({*range(min(AMONG - 1, number)), k})
        try:
            with in_float64(self.model, self.adapter) as call:
                for places in [few, list(range(number))] if coarse and len(few) < number else [few]:
                    x, y = taken(inputs, labels, places)
                    x, y = map_tensors(x, doubled), None if y is None else doubled(y)
                    together, at = self.losses(call, x, y, exact=True), places.index(k)
                    alone = self._alone(call, x, y, at, exact=True)
                    largest = torch.maximum(together.abs().max(), alone.abs())
                    if not bool((together[at] - alone).abs() <= EXACT * largest):
                        return True
        except Exception:  # it does not run in float64, or runs out of memory: the size must do
            return coarse
        self.tolerance = max(self._tolerance(dtype), 4 * size)
        return False


def alike(one: Sample, other: Sample) -> bool:
    """Whether two samples can stand in one batch."""
    same_labels = (one[1] is None) == (other[1] is None)
    return same_labels and all(
        a is None or b is None or samples_key(a) == samples_key(b) for a, b in zip(one, other, strict=True)
    )


def taken(inputs: BatchInputs, labels: Tensor | None, places: Any) -> tuple[BatchInputs, Tensor | None]:
    """Some of the samples of a batch."""
    return inputs[places], None if labels is None else labels[places]


def differentiable(tensor: Tensor, leaves: list[Tensor]) -> Tensor:
    """The same values, of a new leaf and to be written to, if they are real numbers."""
    if not tensor.is_floating_point():
        return tensor
    leaves.append(tensor.detach().requires_grad_())
    return leaves[-1].clone()


def doubled(tensor: Tensor) -> Tensor:
    """In float64, if it is of real numbers."""
    return tensor.double() if tensor.is_floating_point() else tensor


@contextmanager
def in_float64(model: ModelParameters, adapter: Adapter) -> Iterator[Model]:
    """The model with its parameters and buffers in float64, for the block."""
    module = model.module
    values = {name: doubled(t) for name, t in (*module.named_parameters(), *module.named_buffers())}
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield partial(functional_outputs, adapter, module, values)
    finally:
        torch.set_default_dtype(default)


@contextmanager
def memory_may_run_out() -> Iterator[None]:
    """A check that does not fit into memory is left out."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise


@contextmanager
def checkpointing_refused(model: ModelParameters) -> Iterator[None]:
    """Raise ImportanceError for a layer that is called within reentrant activation checkpointing."""

    def before(module: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled():
            check_not_checkpointed()

    trainable = {id(parameter) for parameter in model.parameters.values()}
    with ExitStack() as stack:
        for module in model.module.modules():
            scripted = isinstance(module, torch.jit.ScriptModule)  # takes no hooks
            if not scripted and any(id(parameter) in trainable for parameter in module._parameters.values()):
                stack.callback(module.register_forward_pre_hook(before).remove)
        yield


def random_state(device: torch.device) -> Tensor:
    """The states of torch's random number generators that a model on the device draws from, as bytes."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """What the block draws, from torch, numpy or Python, is drawn again after it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
