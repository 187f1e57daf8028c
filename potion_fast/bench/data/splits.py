"""Training and test images of a run, with their classes and their normalisation."""

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
        name: of the data set.
        train: training images.
        test: test images.
        classes: names, in the order of the labels.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        channels: of every image.
        size: (height, width) of every image; of a text see `TextSplits`.
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
        covers: Collection[int] = (),
        trigger_all: bool = False,
    ) -> PoisonedDataset:
        """A poisoned view of a split, with this data set's normalisation and augmentation.

        Args:
            split: "train" or "test"; on test samples the poison is the one that `Poison.at_test` gives.
            augment: see `PoisonedDataset`; texts are not augmented.
            poison: see `PoisonedDataset`.
            poisoned: see there.
            covers: see there; of images.
            trigger_all: see there.

        Returns:
            A `PoisonedDataset`, of texts a `TextDataset`.

        Raises:
            DataError: another split, or a poison that does not fit the data.
        """
        source = self.source(split)
        if poison is not None and split == "test":
            poison = poison.at_test()
        return self._dataset(source, augment, poison, poisoned, covers, trigger_all)

    def _dataset(
        self,
        source: ImageSource,
        augment: bool,
        poison: Poison | None,
        poisoned: Collection[int] | None,
        covers: Collection[int],
        trigger_all: bool,
    ) -> PoisonedDataset:
        target = 0 if poison is None or poison.target is None else poison.target
        if not 0 <= target < len(self.classes):
            raise DataError(f"target {target} is no label of {self.name}, which has {len(self.classes)} classes")
        return PoisonedDataset(
            source,
            self.mean,
            self.std,
            augment=augment,
            pad=self.pad,
            flip=self.flip,
            poison=poison,
            poisoned=poisoned,
            covers=covers,
            trigger_all=trigger_all,
        )

    def source(self, split: str) -> ImageSource:
        """The samples of a split.

        Args:
            split: "train" or "test".

        Returns:
            Its source.

        Raises:
            DataError: another name.
        """
        if split not in ("train", "test"):
            raise DataError(f"a split is 'train' or 'test', not {split!r}")
        return self.train if split == "train" else self.test

    def sample(self) -> torch.Tensor:
        """A valid input of one sample: zeros, float32 [1, C, H, W]."""
        return torch.zeros(1, self.channels, *self.size)

    @property
    def model_options(self) -> dict[str, int]:
        """Options of a model that takes these samples, in addition to the numbers of classes and channels."""
        return {}


def subset(n: int, size: int | None, seed: int) -> np.ndarray:  # [size] int64, ascending
    """Positions of the samples that a training set of some size keeps.

    Args:
        n: number of samples there are.
        size: number to keep; None keeps all.
        seed: of the draw.

    Returns:
        int64 [size], ascending.

    Raises:
        DataError: a size out of range.
    """
    if size is None:
        return np.arange(n)
    if not 1 <= size <= n:
        raise DataError(f"train_size={size} is out of range: the training split has {n} samples")
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
