"""Scores of an indiscriminate attack, which wants the model to be wrong wherever it can (Lu et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ...utils.predict import accuracy, predict
from .scores import Metric


@dataclass(frozen=True)
class IndiscriminateEvaluation:
    """Outputs on the test images.

    Attributes:
        clean_logits, labels: float32 [N, C] and int64 [N].
        metrics: "clean_accuracy" and "test_error", which is the rest to 1.
    """

    clean_logits: torch.Tensor
    labels: torch.Tensor
    metrics: dict[str, Metric]

    @property
    def attacked_logits(self) -> torch.Tensor:
        """Of the images that the attack is judged by."""
        return self.clean_logits


def evaluate_indiscriminate(
    model: nn.Module,
    clean_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    progress: bool = False,
    *,
    sample: str = "image",
) -> IndiscriminateEvaluation:
    """Run the model over the test images, all of which the attack aims at.

    Args:
        model: that is evaluated.
        clean_loader: test images and labels, in a fixed order.
        progress: show a progress bar.
        sample: what the denominators call a sample.

    Returns:
        The outputs, and the metrics.
    """
    logits, labels = predict(model, clean_loader, progress)
    n, value = len(labels), accuracy(logits, labels)
    metrics = [
        Metric("clean_accuracy", value, "fraction", n, 1.0, f"{n} test {sample}s"),
        Metric("test_error", 1 - value, "fraction", n, 0.0, f"{n} test {sample}s"),
    ]
    return IndiscriminateEvaluation(logits, labels, {metric.name: metric for metric in metrics})
