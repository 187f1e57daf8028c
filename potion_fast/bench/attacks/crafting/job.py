"""A crafting of perturbations: what it takes, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...metrics import Metric
from .crafted import Crafted

if TYPE_CHECKING:
    from ...data import Loader, Splits
    from ..options import CraftOptions


@dataclass(frozen=True)
class CraftJob:
    """One crafting, against the model of a training without S_m.

    Attributes:
        model: of that training.
        splits: data, with S_m in it.
        poisoned: S_m, ascending.
        targets: test images that the attack aims at, see `Poison.crafting_targets`.
        plain_loader: of the samples that the model was trained on, as stored; shuffled or not.
        trained_on: number of these samples.
        test_loader: the clean test images.
        settings: of the attack's own class `Crafting`.
        seed: of all that is random.
        checkpoint: file of a crafting under way, from which it is resumed.
        progress: whether to show progress bars.
    """

    model: nn.Module
    splits: Splits
    poisoned: list[int]
    targets: list[int]
    plain_loader: Callable[[bool], Loader]
    trained_on: int
    test_loader: Loader
    settings: CraftOptions
    seed: int
    checkpoint: Path
    progress: bool = False

    @property
    def labels(self) -> Tensor:
        """int64 [P], of S_m."""
        return self.splits.train.labels[torch.tensor(self.poisoned)]

    def reader(self) -> Callable[[slice], Tensor]:
        """Reads images of S_m [B, C, H, W], clean, not augmented, by their places in it."""
        dataset = self.splits.dataset("train")
        return lambda places: dataset.batch(self.poisoned[places])[0]


@dataclass(frozen=True)
class CraftResult:
    """What a crafting gives.

    Attributes:
        crafted: the perturbations.
        metrics: for metrics.json.
        notes: for metrics.json, as sentences.
        targets: int64 [T], of a targeted attack.
        intended: int64 [T], the labels that it wants for them.
    """

    crafted: Crafted
    metrics: list[Metric]
    notes: list[str] = field(default_factory=list)
    targets: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    intended: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def loss_metrics(before: float, after: float, n: int, where: str) -> list[Metric]:
    """What was minimised, without perturbations and with them.

    Args:
        before: the loss without perturbations.
        after: the loss with them.
        n: number of poisoned samples.
        where: a description of the loss.

    Returns:
        "unperturbed_loss", "crafted_loss" and "loss_reduction".
    """
    return [
        Metric("unperturbed_loss", before, "loss", n, 0.0, where),
        Metric("crafted_loss", after, "loss", n, 0.0, where),
        Metric("loss_reduction", 100 * (1 - after / before), "percent", n, 100.0, f"the unperturbed loss {before:.4g}"),
    ]
