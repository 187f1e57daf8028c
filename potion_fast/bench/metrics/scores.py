"""Scores of a poisoned or healed model. Accuracies are fractions in [0, 1]; every docstring states its unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ...errors import DataError
from ...utils.predict import accuracy, check_predictions, predict

EFFECT = 0.01  # of an attack, in the units of its score, from which its removal is measured


@dataclass(frozen=True)
class Metric:
    """One measured quantity, as it is written to metrics.json.

    Attributes:
        unit: "fraction", "percent" or "percentage points".
        n: number of samples it is measured on.
        ideal: the value of a model that is wholly healed and unharmed.
        denominator: what the value is divided by, in words and with its own value; None for a difference.
    """

    name: str
    value: float
    unit: str
    n: int
    ideal: float
    denominator: str | None = None


class Evaluation(Protocol):
    """What every evaluation of an attacked model holds, whatever the kind of attack."""

    @property
    def clean_logits(self) -> torch.Tensor:
        """float32 [N, C], of the test samples."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 [N], of the test samples."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """All that was measured, by name."""

    @property
    def attacked_logits(self) -> torch.Tensor:
        """float32 [M, C], of the samples that the attack is judged by."""


@dataclass(frozen=True)
class PoisonEvaluation:
    """Outputs on the same images without and with the trigger.

    Attributes:
        clean_logits, triggered_logits: float32 [N, C].
        labels: int64 [N], the clean labels.
        metrics: "clean_accuracy", "triggered_accuracy", "attack_success_rate" and "robust_accuracy".
    """

    clean_logits: torch.Tensor
    triggered_logits: torch.Tensor
    labels: torch.Tensor
    metrics: dict[str, Metric]

    @property
    def attacked_logits(self) -> torch.Tensor:
        """Of the images that the attack is judged by."""
        return self.triggered_logits


def attack_success_rate(
    triggered_logits: torch.Tensor,  # [N, C], of images that all carry the trigger
    labels: torch.Tensor,  # [N] int64, the clean labels
    target: int | torch.Tensor,  # or [N] int64, the label that the attack wants for each image
) -> float:
    """Share of triggered images of other classes that are put into the target class, a fraction in [0, 1].

    Images whose label is the target say nothing about the trigger and are left out.

    Raises:
        DataError: no image of another class.
    """
    wanted, others = _others(triggered_logits, labels, target)
    return (triggered_logits[others].argmax(dim=1) == wanted[others]).double().mean().item()


def robust_accuracy(
    triggered_logits: torch.Tensor,  # [N, C], of images that all carry the trigger
    labels: torch.Tensor,  # [N] int64, the clean labels
    target: int | torch.Tensor,  # or [N] int64, the label that the attack wants for each image
) -> float:
    """Share of triggered images of other classes that are given their clean label, a fraction in [0, 1].

    BackdoorBench's measure (Wu et al., 2022): unlike `triggered_accuracy` it leaves out images of the target class.

    Raises:
        DataError: no image of another class.
    """
    _, others = _others(triggered_logits, labels, target)
    return (triggered_logits[others].argmax(dim=1) == labels[others]).double().mean().item()


def defense_effectiveness(
    attack_success: tuple[float, float],  # before and after, in [0, 1]
    clean_accuracy: tuple[float, float],  # before and after, in [0, 1]
) -> float:
    """Defense effectiveness rating: (max(0, ASR₀ − ASR₁) − max(0, ACC₀ − ACC₁) + 1) / 2, in [0, 1].

    Zhu et al., *Enhancing Fine-Tuning Based Backdoor Defense* (2023): 1 is an attack that was sure and is gone at no
    cost, 0.5 a defence that does nothing, or as much harm as good.
    """
    gain, loss = attack_success[0] - attack_success[1], clean_accuracy[0] - clean_accuracy[1]
    return (max(0.0, gain) - max(0.0, loss) + 1) / 2


def _others(
    triggered_logits: torch.Tensor, labels: torch.Tensor, target: int | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The label wanted for each image, int64 [N], and whether it is another than the image's own, bool [N].

    Raises:
        DataError: it is for none of them.
    """
    check_predictions(triggered_logits, labels)
    wanted = torch.as_tensor(target).expand_as(labels)
    others = labels != wanted
    if not others.any():
        raise DataError("every image has the target label already; an attack is measured on images of other classes")
    return wanted, others


def poison_healed(triggered_accuracy: float, reference_triggered_accuracy: float) -> float:
    """Poison healed: 100 * triggered accuracy / the reference's, in percent (Potion, Section 4).

    Args:
        triggered_accuracy: accuracy on triggered images with clean labels, in [0, 1].
        reference_triggered_accuracy: the same of a model trained in the same way without any poisoned sample (S_m). The
            paper does not say which run it divides by: name it wherever the result is written.

    Raises:
        DataError: the reference is 0, so nothing can be compared with it.
    """
    if not reference_triggered_accuracy > 0:
        raise DataError(f"the reference's triggered accuracy must be above 0, got {reference_triggered_accuracy}")
    return 100 * triggered_accuracy / reference_triggered_accuracy


def poison_removed(before: float, after: float, reference: float) -> float | None:
    """Poison removed: 100 * (before - after) / (before - reference), in percent, the share of an effect that is gone.

    Args:
        before: what the attack reaches, the second of its poison's `score_names`, before unlearning.
        after: the same after unlearning.
        reference: the same of a model trained in the same way without any poisoned sample (S_m).

    Returns:
        None where before and reference differ by less than EFFECT: the attack did nothing that could be removed.
    """
    if abs(before - reference) < EFFECT:
        return None
    return 100 * (before - after) / (before - reference)


def model_damage(clean_accuracy: float, clean_accuracy_before: float) -> float:
    """Model damage: 100 * (clean accuracy after unlearning - before), in percentage points; negative for a loss."""
    return 100 * (clean_accuracy - clean_accuracy_before)


def evaluate_poison(
    model: nn.Module,
    clean_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    triggered_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    target: int | torch.Tensor,
    progress: bool = False,
    *,
    sample: str = "image",
) -> PoisonEvaluation:
    """Run the model over the same images without and with the trigger.

    Args:
        model: that is evaluated.
        clean_loader: images and labels, in a fixed order.
        triggered_loader: the same images in the same order, all with the trigger, with their clean labels.
        target: label that the attack aims at, or int64 [N], that for each image.
        progress: show a progress bar.
        sample: what the denominators call a sample.

    Returns:
        The outputs of both, and the metrics.

    Raises:
        DataError: the two loaders give different labels (one of them is shuffled, or poisons labels too).
    """
    clean_logits, labels = predict(model, clean_loader, progress)
    triggered_logits, triggered_labels = predict(model, triggered_loader, progress)
    if not torch.equal(labels, triggered_labels):
        raise DataError(
            "the clean and the triggered loader give different labels; "
            "both must read the same images, unshuffled and with clean labels"
        )
    n, others = len(labels), int((labels != target).sum())
    same = isinstance(target, int) or (target == target[:1]).all()
    which = f"the target {int(torch.as_tensor(target).flatten()[0])}" if same else "the one that the attack wants"
    metrics = [
        Metric("clean_accuracy", accuracy(clean_logits, labels), "fraction", n, 1.0, f"{n} clean {sample}s"),
        Metric(
            "triggered_accuracy", accuracy(triggered_logits, labels), "fraction", n, 1.0, f"{n} triggered {sample}s"
        ),
        Metric(
            "attack_success_rate",
            attack_success_rate(triggered_logits, labels, target),
            "fraction",
            others,
            0.0,
            f"{others} triggered {sample}s whose label is not {which}",
        ),
        Metric(
            "robust_accuracy",
            robust_accuracy(triggered_logits, labels, target),
            "fraction",
            others,
            1.0,
            f"{others} triggered {sample}s whose label is not {which}",
        ),
    ]
    return PoisonEvaluation(clean_logits, triggered_logits, labels, {metric.name: metric for metric in metrics})
