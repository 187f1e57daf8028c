"""Scores of a targeted attack, which wants certain test images to be taken for another class (Geiping et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import DataError
from ...utils.predict import accuracy, predict
from .scores import Metric


@dataclass(frozen=True)
class TargetEvaluation:
    """Outputs on the test images, and on those of them that the attack aims at.

    Attributes:
        clean_logits, labels: float32 [N, C] and int64 [N], of the test images.
        target_logits, target_labels: float32 [T, C] and int64 [T], of the targets; their true labels.
        metrics: "clean_accuracy", "target_accuracy" and "target_success".
    """

    clean_logits: torch.Tensor
    labels: torch.Tensor
    target_logits: torch.Tensor
    target_labels: torch.Tensor
    metrics: dict[str, Metric]

    @property
    def attacked_logits(self) -> torch.Tensor:
        """Of the images that the attack is judged by."""
        return self.target_logits


def evaluate_targets(
    model: nn.Module,
    clean_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    target_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    intended: torch.Tensor,  # [T] int64
    progress: bool = False,
    *,
    sample: str = "image",
    remark: str = "",
) -> TargetEvaluation:
    """Run the model over the test images and over the targets: images as they are, the attack changes none of them.

    Args:
        model: that is evaluated.
        clean_loader: test images and labels, in a fixed order.
        target_loader: the test images that the attack aims at, in a fixed order, with their true labels.
        intended: the labels that the attack wants for them, in the same order.
        progress: show a progress bar.
        sample: what the denominators call a sample.
        remark: at the end of the targets' denominators.

    Returns:
        The outputs of both, and the metrics.

    Raises:
        DataError: `intended` is of another length, or holds a target's true label.
    """
    clean_logits, labels = predict(model, clean_loader, progress)
    target_logits, target_labels = predict(model, target_loader, progress)
    if intended.shape != target_labels.shape:
        raise DataError(f"{len(intended)} labels are intended for {len(target_labels)} targets")
    if (intended == target_labels).any():
        raise DataError("the label intended for a target is its true one: there is no attack to measure")
    n, targets = len(labels), len(intended)
    where = f"1 target {sample}" if targets == 1 else f"{targets} target {sample}s"
    right, reached = accuracy(target_logits, target_labels), accuracy(target_logits, intended)
    metrics = [
        Metric("clean_accuracy", accuracy(clean_logits, labels), "fraction", n, 1.0, f"{n} test {sample}s"),
        Metric("target_accuracy", right, "fraction", targets, 1.0, f"{where}, given the true label{remark}"),
        Metric("target_success", reached, "fraction", targets, 0.0, f"{where}, given the intended label{remark}"),
    ]
    return TargetEvaluation(
        clean_logits, labels, target_logits, target_labels, {metric.name: metric for metric in metrics}
    )
