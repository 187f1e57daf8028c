"""Predictions of a model over a data set, and their accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..errors import DataError, ModelError
from .batches import inputs_and_labels
from .model import evaluating
from .progress import bar


def predict(model: nn.Module, loader: Iterable[object], progress: bool = False) -> tuple[Tensor, Tensor]:
    """Predictions over a data set.

    The model computes in evaluation mode, on the device of its parameters, and is given back in the mode it had.

    Args:
        model: Gives logits [B, C].
        loader: Gives batches (input [B, ...], label [B], ...).
        progress: Show a progress bar.

    Returns:
        Logits float32 [N, C] and labels int64 [N] on the CPU, in the loader's order.

    Raises:
        DataError: The loader gives no batch, or one without labels.
        ModelError: The model gives something else than logits [B, C].
    """
    device = next(model.parameters()).device
    logits, labels = [], []
    with evaluating(model), torch.inference_mode():
        for batch in bar(loader, label="predicting", unit="batch", shown=progress):
            inputs, batch_labels = inputs_and_labels(batch)
            if batch_labels is None:
                raise DataError("the loader gives no labels to compare the predictions with")
            outputs = model(inputs.to(device, non_blocking=True))
            if not isinstance(outputs, Tensor) or outputs.ndim != 2:
                given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise ModelError(f"the model must give logits [B, C] to be evaluated, not {given}")
            logits.append(outputs.float())
            labels.append(batch_labels)
    if not logits:
        raise DataError("the loader gave no batch; there is nothing to predict")
    # Copied once, at the end, so that the GPU never waits. clone(): an ordinary tensor, not an inference one.
    return torch.cat(logits).cpu().clone(), torch.cat(labels).cpu()


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
