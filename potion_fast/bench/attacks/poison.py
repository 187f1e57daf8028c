"""What every attack on the training data can say of itself: whom it poisons, and what becomes of image and label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ...errors import DataError
from .options import AttackOptions, CraftOptions
from .selection import choose_poisoned

if TYPE_CHECKING:
    from ..data import Splits


class Poison(ABC):
    """An attack. It holds no state: what a sample becomes depends on its id alone, and so is the same at every visit.

    Attributes:
        name: under which it is registered, see `register_attack`.
        Options: what a configuration says of it.
        Crafting: settings of its crafting; None where it is not crafted.
        modalities: what it poisons: "image", "text" or both.
        kind: "trigger", "swap", "gaussian", "targeted" or "indiscriminate": how an attack is evaluated.
        before_augmentation: whether images are poisoned before they are cropped and flipped, rather than after.
        target: label that a trigger aims at; None where there is no trigger.
        scores: names of the two metrics that an attack is judged by: accuracy on the attacked images with their clean
            labels, and the share of them that the attack reaches.
    """

    name: ClassVar[str]
    Options: ClassVar[type[AttackOptions]]
    Crafting: ClassVar[type[CraftOptions] | None] = None
    modalities: ClassVar[tuple[str, ...]] = ("image",)
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


def check_target_of_data(target: int, splits: Splits) -> None:
    """Raise DataError for a label that the data do not have, or where no test image has another one."""
    if target >= len(splits.classes):
        raise DataError(f"target {target} is out of range; the data has {len(splits.classes)} classes")
    if (splits.test.labels == target).all():
        raise DataError(f"all test images are of the target class {target}: an attack cannot be measured")
