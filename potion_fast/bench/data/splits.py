"""What a data set is to a run: training and test images, their classes and their normalisation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ...errors import DataError
from ...user.image_source import ImageSource
from .dataset import PoisonedDataset

if TYPE_CHECKING:
    from ..attacks import Poison

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Splits:
    """A data set as a run uses it. A sample's index is its position in `train` (or `test`), after `train_size`.

    Attributes:
        classes: names, in the order of the labels.
        mean, std: per channel, of pixels in [0, 1].
        channels, size: of every image; size is (height, width), and of a text see `TextSplits`.
        pad: pixels of black border that the random crop may shift an image into.
        flip: whether augmentation mirrors images left to right.
        sample_name: what one of the samples is called in a text.
    """

    name: str
    train: ImageSource
    test: ImageSource
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    size: tuple[int, ...]
    pad: int
    flip: bool
    sample_name: ClassVar[str] = "image"

    def dataset(
        self,
        split: str,
        *,
        augment: bool = False,
        poison: Poison | None = None,
        poisoned: Collection[int] | None = None,
        trigger_all: bool = False,
    ) -> PoisonedDataset:
        """A `PoisonedDataset` over "train" or "test", with this data set's normalisation and augmentation.

        On test images the poison is the one that `Poison.at_test` gives.
        """
        source = self.source(split)
        target = 0 if poison is None or poison.target is None else poison.target
        if not 0 <= target < len(self.classes):
            raise DataError(f"target {target} is no label of {self.name}, which has {len(self.classes)} classes")
        if poison is not None and split == "test":
            poison = poison.at_test()
        return PoisonedDataset(
            source,
            self.mean,
            self.std,
            augment=augment,
            pad=self.pad,
            flip=self.flip,
            poison=poison,
            poisoned=poisoned,
            trigger_all=trigger_all,
        )

    def source(self, split: str) -> ImageSource:
        """The samples of "train" or "test". Raises DataError for another name."""
        if split not in ("train", "test"):
            raise DataError(f"a split is 'train' or 'test', not {split!r}")
        return self.train if split == "train" else self.test

    def sample(self) -> torch.Tensor:
        """A valid input of one sample: zeros, float32 [1, C, H, W]."""
        return torch.zeros(1, self.channels, *self.size)

    @property
    def model_options(self) -> dict[str, int]:
        """What a model must be made with to take these samples, beside the number of classes and channels."""
        return {}


def subset(n: int, size: int | None, seed: int) -> np.ndarray:  # [size] int64, ascending
    """Positions of the samples that a training set of this size keeps. Raises DataError for a size out of range."""
    if size is None:
        return np.arange(n)
    if not 1 <= size <= n:
        raise DataError(f"train_size={size} is out of range: the training split has {n} samples")
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
