"""What every attack on the training data can say of itself: whom it poisons, and what becomes of image and label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch

from ...errors import DataError
from .selection import choose_poisoned


class Poison(ABC):
    """An attack. It holds no state: what a sample becomes depends on its id alone, and so is the same at every visit.

    Attributes:
        kind: "trigger", "swap", "gaussian", "targeted" or "indiscriminate": how an attack is evaluated.
        before_augmentation: whether images are poisoned before they are cropped and flipped, rather than after.
        target: label that a trigger aims at; None where there is no trigger.
        scores: names of the two metrics that an attack is judged by: accuracy on the attacked images with their clean
            labels, and the share of them that the attack reaches.
    """

    kind: ClassVar[str]
    before_augmentation: ClassVar[bool] = False
    target: int | None
    scores: ClassVar[tuple[str, str]]

    @abstractmethod
    def __call__(
        self,
        images: torch.Tensor,  # [B, C, H, W] float32, normalised
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B, C, H, W]
        """The poisoned images: a copy wherever a pixel changes."""

    @abstractmethod
    def relabel(
        self,
        labels: torch.Tensor,  # [M] int64, clean, of all of S_m by ascending id
    ) -> torch.Tensor:  # [M] int64
        """The labels that S_m is given."""

    def choose(
        self,
        labels: torch.Tensor,  # [N] int64, clean, of the whole training set
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """S_m and S_f, in the order of the draws; uniformly, see `choose_poisoned`."""
        return choose_poisoned(len(labels), count, found, seed)

    def at_test(self) -> Poison:
        """The poison as it is put on test images, which are the same for every seed of a run."""
        return self


class Trigger(Poison):
    """A mark in the image; every poisoned sample gets the label `target`."""

    kind = "trigger"
    target: int
    scores = ("triggered_accuracy", "attack_success_rate")

    def relabel(self, labels: torch.Tensor) -> torch.Tensor:
        return torch.full_like(labels, self.target)


class Swap(Poison):
    """Wrong labels on images that stay as they are."""

    kind = "swap"
    target: None = None
    scores = ("manipulated_accuracy", "memorised_rate")

    def __call__(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return images


def check_target(target: int) -> None:
    """Raises DataError for a negative label."""
    if target < 0:
        raise DataError(f"a poison needs target >= 0, not {target}")
