"""Accuracy on S_f, of the model as it stands or of several candidates side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import ops
from ..errors import SearchError
from ..importances import Importance
from ..percentiles import paired_means
from ..utils.adapter import DEFAULT, Adapter, functional_outputs, read_logits
from ..utils.data_errors import LOADER, data_named, sample_named
from ..utils.inputs import BatchInputs, shape_key, tensors_of
from ..utils.labels import class_indices
from ..utils.memory import available
from ..utils.model import ModelParameters, evaluating
from ..utils.predict import accuracy, class_logits, collect
from ..utils.unchanged import unchanged
from .strategies import Score

MAX_CANDIDATES = 16  # side by side
LIVE_OUTPUTS = 4  # as large as the largest, that a forward pass may hold at once: a residual block's
MAX_GRAPHS = 4  # shapes of a batch whose forward pass is recorded
ByClass = dict[int, tuple[int, int]]  # label → samples that get it, samples that have it
UNKNOWN_MEMORY = 2**30  # bytes taken to be free where the system does not say


class Evaluation:
    """Accuracy on a data set of the model as it stands.

    On a CUDA device the way to the logits is recorded as a graph, once for each shape of batch, and replayed: the edits
    of a search are in place, so a graph stays valid from candidate to candidate.
    """

    def __init__(
        self,
        model: nn.Module | ModelParameters,
        loader: Iterable[object],
        adapter: Adapter = DEFAULT,
        name: str = LOADER,
    ) -> None:
        self.parameters, self.loader, self.adapter = ModelParameters.of(model), loader, adapter
        self.name = name  # of the loader, in errors
        self.by_class: ByClass = {}  # of the last evaluation
        self.writes: bool | None = (
            None  # whether a forward pass changes the model, which is put back then; None: unknown
        )
        self.sample: BatchInputs | None = None  # the first one that it was called with
        recorded = self.parameters.device.type == "cuda" and not self.parameters.sharded  # shards are gathered anew
        self.logits_of: Callable[[BatchInputs], Tensor] = CUDAGraph(self._logits) if recorded else self._logits

    def __call__(self) -> Score:
        """The score of the model as it stands."""
        if self.writes is False:
            with evaluating(self.parameters.wrapped):
                return self._score(self.logits_of)
        with unchanged(self.parameters.wrapped) as watch:
            score = self._score(watch.first_call(self.logits_of))
        self.writes = watch.wrote
        if self.writes:  # a replayed graph writes without being seen
            self.logits_of = self._logits
        return score

    def _score(self, logits_of: Callable[[BatchInputs], Tensor]) -> Score:
        with data_named(self.name):
            logits, labels = collect(logits_of, self.loader, self.parameters.device, self.adapter)
            classes = _classes(logits, labels)
        right = classes[logits.argmax(1) == classes].bincount(minlength=logits.shape[1]).tolist()
        self.by_class = {label: (right[label], n) for label, n in enumerate(classes.bincount().tolist()) if n}
        return _score(logits, classes)

    def check_stackable(self) -> None:
        """Try the model on stacked weights, with a sample that it was evaluated on. Raises SearchError, see there."""
        stacked = {name: tensor[None] for name, tensor in self.parameters.tensors.items()}
        with unchanged(self.parameters.wrapped), torch.inference_mode():
            if self.sample is not None:
                stacked_logits(self.adapter, self.parameters.wrapped, stacked, self.sample)

    def _logits(self, inputs: BatchInputs) -> Tensor:
        if self.sample is None:
            self.sample = inputs[:1].clone()
        return class_logits(read_logits(self.adapter.call(self.parameters.wrapped, inputs), self.adapter))


class BatchedEvaluation:
    """Accuracies on a data set of several candidates at once: one pass over the data, through stacked weights.

    They are those of one candidate at a time, up to the rounding of batched kernels. So many candidates go side by
    side, at most 16, as fit into half of the free memory, each with its weights and four times the largest output of a
    module; where memory runs out nevertheless, half as many.

    Args:
        model: The model, or its parameters where they were made already, as when the importances were computed; it is
            unchanged.
        forget: Importances of S_f.
        retain: Importances of the training data.
        loader: S_f, batches (input, label, ...).
        largest: Bytes of the largest output of a module, see `largest_output`.
        adapter: Reads the batches, calls the model and finds its logits.
    """

    def __init__(
        self,
        model: nn.Module | ModelParameters,
        forget: Importance,
        retain: Importance,
        loader: Iterable[object],
        largest: int,
        adapter: Adapter = DEFAULT,
    ) -> None:
        self.adapter = adapter
        self.parameters, self.loader, self.parts = ModelParameters.of(model), loader, dict(forget.parts())
        self.weights = torch.cat([tensor.reshape(-1) for tensor in self.parameters.tensors.values()])  # [n]
        self.forget, self.retain = (mean.to(self.weights.device) for mean in paired_means(forget, retain))  # [n], [n]
        free = available(self.weights.device)
        per_candidate = self.weights.nbytes + LIVE_OUTPUTS * largest
        self.most = max(1, min(MAX_CANDIDATES, (UNKNOWN_MEMORY if free is None else free) // 2 // per_candidate))

    def __call__(self, alphas: Tensor) -> list[Score]:
        """The scores of the first of these candidates, as many as are evaluated at once. alphas: [K]."""
        while True:
            try:
                return self._scores(alphas[: self.most])
            except torch.OutOfMemoryError:
                if self.most == 1:
                    raise
                self.most //= 2

    def _scores(self, alphas: Tensor) -> list[Score]:
        copies = ops.dampen_many(self.weights, self.forget, self.retain, alphas)  # [K, n]
        shapes = self.parameters.shapes
        stacked = {name: copies[:, part].view(len(copies), *shapes[name]) for name, part in self.parts.items()}
        logits_of = partial(stacked_logits, self.adapter, self.parameters.wrapped, stacked)
        with unchanged(self.parameters.wrapped) as watch:
            logits, labels = collect(
                watch.first_call(logits_of), self.loader, self.parameters.device, self.adapter
            )  # [N, K, C]
        classes = _classes(logits[:, 0], labels)
        return [_score(own, classes) for own in logits.unbind(1)]


def stacked_logits(adapter: Adapter, model: nn.Module, stacked: dict[str, Tensor], inputs: BatchInputs) -> Tensor:
    """Logits of K versions of a model side by side, [B, ...] -> [B, K, C].

    Args:
        adapter: Calls the model and finds its logits.
        model: The model.
        stacked: [K, ...] for each trainable parameter.
        inputs: Of a batch.

    Raises:
        SearchError: torch.func refuses the model.
    """

    def logits_of(parameters: dict[str, Tensor]) -> Tensor:
        return read_logits(functional_outputs(adapter, model, parameters, inputs), adapter)

    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule: vmap would loop over them
            return torch.vmap(logits_of)(stacked).transpose(0, 1)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise SearchError(
            f'torch.func cannot run this model on stacked weights, take another strategy than "batched": {error}'
        ) from error


class CUDAGraph:
    """A function of a batch on a CUDA device that is recorded as a graph and replayed, shape by shape.

    Weights may change in place between calls, not be replaced. What cannot be recorded runs as it is.

    Args:
        function: inputs [B, ...] -> a tensor.
    """

    def __init__(self, function: Callable[[BatchInputs], Tensor]) -> None:
        self.function = function
        self.graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, BatchInputs, Tensor]] = {}
        self.recordable = True

    def __call__(self, inputs: BatchInputs) -> Tensor:
        """What the function gives for the inputs."""
        key = (shape_key(inputs), *(tensor.stride() for tensor in tensors_of(inputs)))
        if key not in self.graphs:
            if not self.recordable or len(self.graphs) == MAX_GRAPHS:
                return self.function(inputs)
            try:
                self.graphs[key] = record(self.function, inputs)
            except RuntimeError:
                self.recordable = False
                return self.function(inputs)
        graph, kept_inputs, outputs = self.graphs[key]
        for kept, given in zip(tensors_of(kept_inputs), tensors_of(inputs), strict=True):
            kept.copy_(given)
        graph.replay()
        return outputs.clone()


def record(
    function: Callable[[BatchInputs], Tensor], inputs: BatchInputs
) -> tuple[torch.cuda.CUDAGraph, BatchInputs, Tensor]:
    """A graph of a function of a batch, the inputs that it reads and the tensor that it writes.

    Raises:
        RuntimeError: The function cannot be recorded.
    """
    inputs, graph = inputs.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.device(inputs.device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what libraries set up at their first call must not be recorded
            function(inputs)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a loader may pin memory in its own thread
            outputs = function(inputs)
    return graph, inputs, outputs


@contextmanager
def largest_output(model: nn.Module) -> Iterator[list[int]]:
    """Keep in the list's one element the bytes of the largest tensor that a module gives within the block."""
    largest = [0]

    def measure(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.nbytes)

    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]  # takes no hooks
    hooks = [module.register_forward_hook(measure) for module in modules]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _classes(logits: Tensor, labels: Tensor) -> Tensor:
    with sample_named(labels, 0):
        return class_indices(logits, labels)


def _score(logits: Tensor, classes: Tensor) -> Score:
    return Score(accuracy(logits, classes), bool(torch.isfinite(logits).all()))
