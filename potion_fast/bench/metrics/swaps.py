"""Scores of a model trained on swapped labels, where no trigger makes an attacked test set (Goel et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import DataError
from ...utils.predict import accuracy, predict
from .scores import Metric


@dataclass(frozen=True)
class SwapEvaluation:
    """Outputs on the test images, and on the training images whose labels were swapped.

    Attributes:
        clean_logits, labels: float32 [N, C] and int64 [N], of the test images.
        manipulated_logits, manipulated_labels: float32 [M, C] and int64 [M], of S_m; the clean labels.
        metrics: "clean_accuracy", "manipulated_accuracy", "memorised_rate", and where two classes were swapped
            "pair_accuracy", "rest_accuracy" and "confusion_rate".
    """

    clean_logits: torch.Tensor
    labels: torch.Tensor
    manipulated_logits: torch.Tensor
    manipulated_labels: torch.Tensor
    metrics: dict[str, Metric]

    @property
    def attacked_logits(self) -> torch.Tensor:
        """Of the images that the attack is judged by."""
        return self.manipulated_logits


def evaluate_swap(
    model: nn.Module,
    clean_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    manipulated_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    given: torch.Tensor,  # [M] int64
    pair: tuple[int, ...] | None = None,
    progress: bool = False,
    *,
    sample: str = "image",
) -> SwapEvaluation:
    """Run the model over the test images and over S_m, and compare with the clean labels of both.

    Args:
        model: that is evaluated.
        clean_loader: test images and labels, in a fixed order.
        manipulated_loader: the training images of S_m, not augmented, in a fixed order, with their clean labels.
        given: the labels that S_m was trained with, in the same order.
        pair: the two classes whose labels were swapped; None where labels of all classes were permuted.
        progress: show a progress bar.
        sample: what the denominators call a sample.

    Returns:
        The outputs of both, and the metrics.

    Raises:
        DataError: no label of S_m was changed, there is no test image of the pair, or `given` is of another length.
    """
    clean_logits, labels = predict(model, clean_loader, progress)
    manipulated_logits, manipulated_labels = predict(model, manipulated_loader, progress)
    if given.shape != manipulated_labels.shape:
        raise DataError(f"{len(given)} labels were given to {len(manipulated_labels)} manipulated samples")
    changed = given != manipulated_labels  # [M]
    if not changed.any():
        raise DataError("every manipulated sample kept its own label: there is no attack to measure")
    n, m, kept = len(labels), len(given), int((~changed).sum())
    metrics = [Metric("clean_accuracy", accuracy(clean_logits, labels), "fraction", n, 1.0, f"{n} test {sample}s")]
    if pair is not None:
        metrics += _of_pair(clean_logits, labels, pair, sample)
    metrics += [
        Metric(
            "manipulated_accuracy",
            accuracy(manipulated_logits, manipulated_labels),
            "fraction",
            m,
            1.0,
            f"{m} training {sample}s whose labels were swapped ({kept} kept theirs), clean labels",
        ),
        Metric(
            "memorised_rate",
            accuracy(manipulated_logits[changed], given[changed]),
            "fraction",
            m - kept,
            0.0,
            f"{m - kept} training {sample}s with a wrong label, given that label",
        ),
    ]
    return SwapEvaluation(
        clean_logits, labels, manipulated_logits, manipulated_labels, {metric.name: metric for metric in metrics}
    )


def _of_pair(
    logits: torch.Tensor,  # [N, C]
    labels: torch.Tensor,  # [N]
    pair: tuple[int, ...],
    sample: str,
) -> list[Metric]:
    """Accuracy on the two classes and on the rest, where there is a rest, and how often the two are confused."""
    first, second = pair
    of_pair = (labels == first) | (labels == second)  # [N]
    if not of_pair.any():
        raise DataError(f"there is no test image of the classes {first} and {second}")
    other = torch.where(labels == first, second, first)[of_pair]
    n, rest = int(of_pair.sum()), int((~of_pair).sum())
    where = f"{n} test {sample}s of the classes {first} and {second}"
    metrics = [Metric("pair_accuracy", accuracy(logits[of_pair], labels[of_pair]), "fraction", n, 1.0, where)]
    if rest:
        value, others = accuracy(logits[~of_pair], labels[~of_pair]), f"{rest} test {sample}s of the other classes"
        metrics.append(Metric("rest_accuracy", value, "fraction", rest, 1.0, others))
    confused = accuracy(logits[of_pair], other)
    metrics.append(Metric("confusion_rate", confused, "fraction", n, 0.0, f"{where}, taken for the other of the two"))
    return metrics
