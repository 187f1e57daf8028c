"""Features of the training data: what one forward pass in evaluation mode keeps of every sample."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Ranks, unwrap_compile
from ..errors import ModelError
from ..utils.adapter import Adapter, mistakes_named, read_logits
from ..utils.data_errors import LOADER, data_named, sample_named
from ..utils.halving import Halving
from ..utils.inputs import BatchInputs, map_tensors
from ..utils.labels import single_labels
from ..utils.model import ModelParameters, check_amp
from ..utils.progress import bar
from ..utils.training_data import TrainingData
from ..utils.unchanged import unchanged

LOGITS = "its logits"  # where no layer gives them


@dataclass(frozen=True)
class Features:
    """What a forward pass over training data keeps, on the CPU, in the order of the samples that were read.

    Attributes:
        features: float32 [N, D], the input of the layer that gives the logits; the mean over its other dimensions where
            it has some, or of a text the token whose logits the model gives.
        labels: int64 [N], as trained on.
        log_p: float32 [N], log-probability of the given label.
        best: int64 [N], the model's label.
        second: int64 [N], its best label other than the given one.
        classes: Number of the model's labels, C.
        layer: Name of the layer whose input the features are, or "its logits".
    """

    features: Tensor
    labels: Tensor
    log_p: Tensor
    best: Tensor
    second: Tensor
    classes: int
    layer: str

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, rows: Tensor) -> Features:
        """Of some of the samples, at rows [k]."""
        part: dict[str, Any] = {name: getattr(self, name)[rows] for name in TENSORS}
        return replace(self, **part)


def features_of(
    model: nn.Module,
    data: TrainingData,
    indices: Tensor | None = None,
    *,
    amp: torch.dtype | None = None,
    ranks: Ranks | None = None,
    progress: bool = False,
) -> Features:
    """Features of samples of the training data, from one forward pass in evaluation mode.

    Each of several ranks reads a contiguous part, and all get everything, with the same bits.

    Args:
        model: Gives logits [B, C]; it is given back as it was.
        data: The training data, as trained on.
        indices: Of the samples, int64 [N]; all by default.
        amp: The model runs under autocast to this dtype.
        ranks: That share the work; None: this process does all of it.
        progress: Show a progress bar.

    Raises:
        DataError: Samples without a label each that is a class of the model's.
        ModelError: The model does not give one row of logits for a sample, or features or logits are not finite.
        OutOfMemoryError: Not even one sample fits.
    """
    check_amp(amp)
    ranks = ranks or Ranks()
    indices = torch.arange(len(data)) if indices is None else indices
    first, last = (rank * len(indices) // ranks.size for rank in (ranks.rank, ranks.rank + 1))
    parameters = ModelParameters.of(model)
    if parameters.sharded:
        raise ModelError("the model is sharded by FSDP2; gather its weights into a whole model first")
    with ranks.raising_together():
        # A rank without samples of its own reads one, whose shapes it needs.
        own = indices[first:last] if last > first else indices[:1]
        part = _read(parameters, data, own, amp, progress)
    return part if ranks.size == 1 else _gathered(part, first, last, len(indices), ranks, parameters.device)


def _read(
    parameters: ModelParameters, data: TrainingData, indices: Tensor, amp: torch.dtype | None, progress: bool
) -> Features:
    """Features of this process's samples."""
    number = -(-len(indices) // data.batch_size)
    batches = bar(
        data.batches(indices), label="features of the training data", unit="batch", shown=progress, total=number
    )
    with data_named(data.name):
        return features_of_batches(parameters, batches, data.adapter, amp, indices, data.name)


def features_of_batches(
    parameters: ModelParameters,
    batches: Iterable[tuple[BatchInputs, Tensor]],
    adapter: Adapter,
    amp: torch.dtype | None = None,
    indices: Tensor | None = None,
    name: str = LOADER,
) -> Features:
    """Features of the samples of batches, on this process, in evaluation mode.

    Args:
        parameters: The model.
        batches: Inputs [B, ...] and labels [B, ...] of each, one at least.
        adapter: Calls the model and finds its logits.
        amp: The model runs under autocast to this dtype.
        indices: Of the samples, int64 [N], for errors; None: they are counted.
        name: Of the data, likewise.

    Raises:
        DataError: See `features_of`.
        ModelError: See `features_of`.
    """
    device, halving = parameters.device, Halving()
    parts: list[Features] = []
    done = 0
    with unchanged(parameters.wrapped) as watch, torch.inference_mode(), _LastLayer(parameters.wrapped) as last_layer:

        def logits_of(inputs: BatchInputs) -> Tensor:
            with torch.autocast(device.type, dtype=amp) if amp is not None else nullcontext():
                outputs = adapter.call(last_layer.module, inputs)  # torch.compile's wrapper passes hooks by
            return read_logits(outputs, adapter).float()

        watched = watch.first_call(logits_of)

        def part_of(inputs: BatchInputs, labels: Tensor) -> Features:
            with mistakes_named(inputs):
                logits = watched(map_tensors(inputs, lambda tensor: tensor.to(device, non_blocking=True)))
            return _described(logits, single_labels(logits, labels), last_layer)

        for inputs, labels in batches:
            place = done if indices is None else indices[done : done + len(labels)]
            with sample_named(labels, place, name):
                parts += halving(part_of, inputs, labels)
            done += len(labels)
    joint: dict[str, Any] = {column: torch.cat([getattr(part, column) for part in parts]) for column in TENSORS}
    for column in ("features", "log_p"):
        bad = ~torch.isfinite(joint[column].flatten(1) if column == "features" else joint[column][:, None]).all(1)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ModelError(
                f"the model gives {'features' if column == 'features' else 'logits'} that are not finite for the "
                f"sample {row if indices is None else int(indices[row])} of {name}; poison cannot be sought with it"
            )
    return replace(parts[0], **joint)


TENSORS = ("features", "labels", "log_p", "best", "second")


def _described(logits: Tensor, labels: Tensor, last_layer: _LastLayer) -> Features:
    """Features of one batch, on the CPU."""
    labels = labels.to(logits.device)
    given = labels[:, None]
    others = logits.scatter(1, given, -torch.inf)
    columns = {
        "features": last_layer.features(logits),
        "labels": labels,
        "log_p": logits.log_softmax(1).gather(1, given)[:, 0],
        "best": logits.argmax(1),
        "second": others.argmax(1),
    }
    # clone(): ordinary tensors, not those of inference mode
    with torch.inference_mode(False):
        return Features(
            **{name: column.cpu().clone() for name, column in columns.items()},
            classes=logits.shape[1],
            layer=last_layer.name,
        )


class _LastLayer:
    """The layer that gives the logits, and its input in the last call.

    It is the last module with parameters of its own that was called, and none around it: the classifier, also where an
    average, a scale or a choice of tokens follows it. Where none was called, the logits are the features.

    Attributes:
        name: Of the module.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = unwrap_compile(model)
        self.name = LOGITS
        self.last: tuple[nn.Module, Tensor, Tensor] | None = None  # module, input, output
        self.hooks: list[Any] = []

    def __enter__(self) -> _LastLayer:
        for name, module in self.module.named_modules():
            own = next(module.parameters(recurse=False), None)
            if own is not None and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                self.hooks.append(module.register_forward_hook(self._keeping(name), with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()
        self.last = None

    def _keeping(self, name: str) -> Any:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self.last is not None and (not name or self.name.startswith(f"{name}.")):
                return  # a module around the last one, with parameters of its own, as a transformer's tokens
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if given is not None and given.is_floating_point() and isinstance(output, Tensor):
                self.name, self.last = name or type(module).__name__, (module, given, output)

        return keep

    def features(self, logits: Tensor) -> Tensor:
        """float32 [B, D] for the batch that has just given these logits [B, C]."""
        if self.last is None:
            return logits
        (module, given, output), self.last = self.last, None
        if len(given) != len(logits) or given.ndim < 2:
            self.name = LOGITS
            return logits
        given = given.float()
        if output.ndim == 3 and output.shape[::2] == logits.shape:  # [B, T, C]: of each token
            rows = (output == logits[:, None]).all(2)  # [B, T]
            if rows.any(1).all():
                token = rows.float().argmax(1)
                return given[torch.arange(len(given), device=given.device), token]
        channels_first = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or given.ndim > 3
        return (
            given.flatten(2).mean(2)
            if channels_first and given.ndim > 2
            else given.flatten(1, -2).mean(1)
            if given.ndim > 2
            else given
        )


def _gathered(part: Features, first: int, last: int, samples: int, ranks: Ranks, device: torch.device) -> Features:
    """The features of all ranks' samples, from those of this one's."""
    joint: dict[str, Any] = {}
    for name in TENSORS:
        own = getattr(part, name)
        whole = torch.zeros((samples, *own.shape[1:]), dtype=own.dtype, device=device)
        whole[first:last] = own[: last - first].to(device)
        ranks.all_reduce(whole)  # x + 0: the same bits
        joint[name] = whole.cpu()
    return replace(part, **joint)
