"""Accuracy on S_f, of the model as it stands or of several candidates side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import ops
from ..errors import SearchError
from ..importances import Importance
from ..percentiles import paired_means
from ..utils.memory import available
from ..utils.model import ModelParameters
from ..utils.predict import accuracy, predict
from .strategies import Score

MAX_CANDIDATES = 16  # side by side
LIVE_OUTPUTS = 4  # as large as the largest, that a forward pass may hold at once: a residual block's
MAX_GRAPHS = 4  # shapes of a batch whose forward pass is recorded
UNKNOWN_MEMORY = 2**30  # bytes taken to be free where the system does not say


class Evaluation:
    """Accuracy on a data set of the model as it stands.

    On a CUDA device the forward pass is recorded as a graph, once for each shape of batch, and replayed: the edits of a
    search are in place, so a graph stays valid from candidate to candidate.
    """

    def __init__(self, model: nn.Module | ModelParameters, loader: Iterable[object]) -> None:
        parameters = ModelParameters.of(model)
        recorded = parameters.device.type == "cuda" and not parameters.sharded  # shards are gathered anew each time
        self.model = CUDAGraphModel(parameters.wrapped) if recorded else parameters.wrapped
        self.loader = loader

    def __call__(self) -> Score:
        """The score of the model as it stands."""
        return _score(*predict(self.model, self.loader))


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
    """

    def __init__(
        self,
        model: nn.Module | ModelParameters,
        forget: Importance,
        retain: Importance,
        loader: Iterable[object],
        largest: int,
    ) -> None:
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
        logits, labels = predict(StackedModel(self.parameters.wrapped, stacked), self.loader)  # [N, K · C]
        return [_score(own, labels) for own in logits.view(len(logits), len(copies), -1).unbind(1)]


class StackedModel(nn.Module):
    """K versions of a model side by side.

    Args:
        model: The model.
        stacked: [K, ...] for each trainable parameter.
    """

    def __init__(self, model: nn.Module, stacked: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.stacked = model, stacked

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of all versions, [B, ...] -> [B, K · C]."""

        def outputs_of(parameters: dict[str, Tensor]) -> Any:
            return functional_call(self.model, parameters, (inputs,))

        try:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule: vmap would loop over them
                outputs = torch.vmap(outputs_of)(self.stacked)  # [K, B, C]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise SearchError(
                f'torch.func cannot run this model on stacked weights, take another strategy than "batched": {error}'
            ) from error
        return outputs.transpose(0, 1).flatten(1)


class CUDAGraphModel(nn.Module):
    """A model on a CUDA device whose forward pass is recorded as a graph and replayed, shape by shape.

    Weights may change in place between passes, not be replaced. A model that cannot be recorded runs as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.graphs: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self.recordable = True

    def forward(self, inputs: Tensor) -> Any:
        """What the model gives for the inputs."""
        key = (inputs.shape, inputs.stride(), inputs.dtype)
        if key not in self.graphs:
            if not self.recordable or len(self.graphs) == MAX_GRAPHS:
                return self.model(inputs)
            try:
                self.graphs[key] = record(self.model, inputs)
            except RuntimeError:
                self.recordable = False
                return self.model(inputs)
        graph, kept_inputs, outputs = self.graphs[key]
        kept_inputs.copy_(inputs)
        graph.replay()
        return outputs.clone()


def record(model: nn.Module, inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
    """A graph of the forward pass, the tensor that it reads and the one that it writes.

    Raises:
        RuntimeError: The pass cannot be recorded, or gives no single tensor.
    """
    inputs, graph = inputs.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.device(inputs.device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what libraries set up at their first call must not be recorded
            model(inputs)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a loader may pin memory in its own thread
            outputs = model(inputs)
    if not isinstance(outputs, Tensor):
        raise RuntimeError("only a tensor can be read after a replay")
    return graph, inputs, outputs


@contextmanager
def largest_output(model: nn.Module) -> Iterator[list[int]]:
    """Keep in the list's one element the bytes of the largest tensor that a module gives within the block."""
    largest = [0]

    def measure(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.nbytes)

    hooks = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _score(logits: Tensor, labels: Tensor) -> Score:
    return Score(accuracy(logits, labels), bool(torch.isfinite(logits).all()))
