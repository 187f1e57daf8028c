"""Predictions of a model over a data set, and their accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..errors import DataError, ModelError
from .adapter import DEFAULT, Adapter, mistakes_named, read_logits
from .batches import check_loader
from .data_errors import read_batches, sample_named
from .inputs import BatchInputs
from .labels import check_columns, check_rows, class_indices
from .progress import bar
from .unchanged import unchanged


def predict(
    model: nn.Module, loader: Iterable[object], progress: bool = False, adapter: Adapter = DEFAULT
) -> tuple[Tensor, Tensor]:
    """Predictions over a data set.

    The model computes in evaluation mode, on the device of its parameters, and is given back as it was.

    Args:
        model: Gives logits [B, C].
        loader: Gives batches (input [B, ...], label [B], ...), or others that the adapter reads.
        progress: Show a progress bar.
        adapter: Reads the batches, calls the model and finds its logits, see `Adapter`.

    Returns:
        Logits float32 [N, C] and labels int64 [N] on the CPU, in the loader's order.

    Raises:
        DataError: The loader gives no batch, or one without labels, or labels that are no classes of the model's.
        ModelError: The model gives something else than logits [B, C], with C of at least 2.
    """

    def logits_of(inputs: BatchInputs) -> Tensor:
        return class_logits(read_logits(adapter.call(model, inputs), adapter))

    with unchanged(model) as watch:
        logits, labels = collect(
            watch.first_call(logits_of), loader, next(model.parameters()).device, adapter, progress
        )
    with sample_named(labels, 0):
        return logits, class_indices(logits, labels)


def class_logits(logits: Tensor) -> Tensor:
    """The logits, checked.

    Raises:
        ModelError: They are not [B, C], with C of at least 2.
    """
    check_columns(logits)
    if logits.ndim != 2:
        raise ModelError(
            f"the model must give logits [B, C] to be evaluated, not {list(logits.shape)}; an adapter can choose "
            "those of one class for each sample (potion_fast.Adapter)"
        )
    return logits


def collect(
    outputs_of: Callable[[BatchInputs], Tensor],
    loader: Iterable[object],
    device: torch.device,
    adapter: Adapter = DEFAULT,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outputs float32 [N, ...] for the batches of a loader on a device, and their labels [N, ...]; both on the CPU.

    Raises:
        DataError: The loader gives no batch, or one without labels.
    """
    check_loader(loader)
    collected, labels = [], []
    with torch.inference_mode():
        shown = bar(loader, label="predicting", unit="batch", shown=progress)
        for inputs, batch_labels, _ in read_batches(shown, adapter):
            if batch_labels is None:
                raise DataError("the loader gives no labels to compare the predictions with")
            if not len(inputs):
                continue
            with mistakes_named(inputs):
                outputs = outputs_of(inputs.to(device, non_blocking=True))
            check_rows(outputs, batch_labels)
            collected.append(outputs.float())
            labels.append(batch_labels)
    if not collected:
        raise DataError("the loader gave no batch: there is nothing to predict, or it can be read only once")
    # Copied once, at the end, so that the GPU never waits. clone(): an ordinary tensor, not an inference one.
    return torch.cat(collected).cpu().clone(), torch.cat(labels).cpu()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest logit is at their label.

    Args:
        logits: [N, C].
        labels: [N] int64.

    Returns:
        A fraction in [0, 1].

    Raises:
        DataError: There is no sample, or the shapes do not fit.
    """
    check_predictions(logits, labels)
    return (logits.argmax(dim=1) == labels).double().mean().item()


def check_predictions(logits: Tensor, labels: Tensor) -> None:
    """Check that there are predictions, and labels for them.

    Args:
        logits: [N, C].
        labels: [N].

    Raises:
        DataError: There is no sample, or the shapes do not fit.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        shapes = f"{list(logits.shape)} and {list(labels.shape)}"
        raise DataError(f"scores need logits [N, C] and labels [N] with N > 0, got {shapes}")
