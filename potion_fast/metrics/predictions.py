"""A model's outputs over a data set."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from tqdm import tqdm

from ..errors import DataError


def predict(
    model: nn.Module,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float32 [N, C] and labels int64 [N] on the CPU, in the loader's order.

    The model computes in evaluation mode, on the device of its parameters, and is given back in the mode it had.

    Raises:
        DataError: the loader gives no batch.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]  # single layers may be frozen in another mode
    logits, labels = [], []
    model.eval()
    try:
        with torch.inference_mode():
            for images, batch_labels in tqdm(loader, desc="predicting", unit="batch", disable=not progress):
                logits.append(model(images.to(device, non_blocking=True)).float())
                labels.append(batch_labels)
    finally:
        for module, training in modes:
            module.training = training
    if not logits:
        raise DataError("the loader gave no batch; there is nothing to predict")
    # Copied to the CPU once, at the end, so that the GPU never waits; outside inference_mode, so that it is an ordinary
    # tensor.
    return torch.cat(logits).cpu().clone(), torch.cat(labels).cpu()
