"""Images with a poison: what a DataLoader reads, one whole batch at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import DataError
from .sources import ImageSource

if TYPE_CHECKING:
    from ..poisons import Poison


class PoisonedDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Normalised images and labels: augment, divide by 255, normalise, then poison, in this order.

    The trigger comes last so that it is never cropped, flipped or rescaled. Augmentation draws from torch's global
    generator (in a DataLoader worker from the worker's, which the loader's own generator seeds).

    Args:
        source: where images and labels come from.
        mean, std: per channel, of pixels in [0, 1].
        augment: random crop out of the image with `pad` black pixels around it and, where `flip` is set, a flip left to
            right with probability 1/2.
        poison: writes the trigger into a normalised batch [B, C, H, W]; its `target` is the label of a poisoned sample.
        poisoned: indices that get the trigger and the target label; None for no sample.
        trigger_all: put the trigger on every image and keep the clean labels: the evaluation of an attack.

    Raises:
        DataError: an index in `poisoned` out of range or given twice, a trigger asked for without a poison, or both
            `poisoned` and `trigger_all`.
    """

    def __init__(
        self,
        source: ImageSource,
        mean: Sequence[float],  # [C]
        std: Sequence[float],  # [C]
        *,
        augment: bool = False,
        pad: int = 0,
        flip: bool = False,
        poison: Poison | None = None,
        poisoned: Collection[int] | None = None,
        trigger_all: bool = False,
    ) -> None:
        if trigger_all and poisoned is not None:
            raise DataError("trigger_all keeps clean labels and poisoned changes them: pass one of the two")
        if poison is None and (trigger_all or poisoned is not None):
            raise DataError("samples are to be triggered, but no poison was given")
        self.source = source
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.augment = augment
        self.pad = pad
        self.flip = flip
        self.poison = poison
        self.trigger_all = trigger_all
        self.poisoned = torch.zeros(len(source), dtype=torch.bool)  # [N], a mask: membership costs one look-up
        if poisoned is not None:
            self.poisoned[check_indices(poisoned, len(source))] = True

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 [C, H, W] and label int64 []."""
        images, labels = self.batch([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What a DataLoader asks for: the whole batch is computed at once, then handed over sample by sample."""
        images, labels = self.batch(indices)
        return list(zip(images.unbind(), labels.unbind(), strict=True))

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B] at these positions."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        pixels = self.source.images(rows)  # [B, C, H, W] uint8
        labels = self.source.labels[rows]
        if self.augment:
            pixels = random_crop_flip(pixels, self.pad, self.flip)
        images = normalise(pixels, self.mean, self.std)
        if self.poison is None:
            return images, labels
        if self.trigger_all:
            return self.poison(images), labels
        poisoned = self.poisoned[rows]  # [B]
        if poisoned.any():
            images[poisoned] = self.poison(images[poisoned])
            labels = torch.where(poisoned, self.poison.target, labels)
        return images, labels


def normalise(
    pixels: torch.Tensor,  # [B, C, H, W] uint8
    mean: Sequence[float],  # [C]
    std: Sequence[float],  # [C]
) -> torch.Tensor:  # [B, C, H, W] float32
    """(pixels / 255 - mean) / std, in float32 and in this order of operations: the trigger's value depends on it."""
    shift = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
    return pixels.float().div_(255).sub_(shift).div_(scale)


def max_value(
    source: ImageSource,
    mean: Sequence[float],  # [C]
    std: Sequence[float],  # [C]
) -> float:
    """The largest value of the whole normalised set, over all images, pixels and channels, without augmentation."""
    step = 4096  # images at a time: a source of files is never wholly in memory
    largest = torch.stack(
        [source.images(range(i, min(i + step, len(source)))).amax(dim=(0, 2, 3)) for i in range(0, len(source), step)]
    ).amax(dim=0)  # [C] uint8; normalising keeps the order within a channel
    return normalise(largest.view(1, -1, 1, 1), mean, std).max().item()


def random_crop_flip(
    pixels: torch.Tensor,  # [B, C, H, W]
    pad: int,
    flip: bool,
) -> torch.Tensor:  # [B, C, H, W]
    """Shift each image by up to `pad` pixels each way, filling with 0; with `flip`, mirror it with probability 1/2."""
    batch, _, height, width = pixels.shape
    top, left = torch.randint(2 * pad + 1, (2, batch))  # [B], [B]
    padded = torch.nn.functional.pad(pixels, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 2 pad + 1, 2 pad + 1, H, W], a view
    cropped = windows[torch.arange(batch), :, top, left]  # [B, C, H, W]
    if not flip:
        return cropped
    return torch.where(torch.rand(batch, 1, 1, 1) < 0.5, cropped.flip(3), cropped)


def make_loader(
    dataset: PoisonedDataset,
    indices: Collection[int] | None = None,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int = 0,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """A DataLoader of (images float32 [B, C, H, W], labels int64 [B]); the last, partial batch is kept.

    Args:
        indices: the samples to read, in this order when `shuffle` is off; None reads all.
        seed: fixes the order of a shuffled loader, and with `workers` the augmentation too.

    Raises:
        DataError: no index at all, an index out of range or given twice, or a batch size or number of workers out of
            range.
    """
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size={batch_size} must be at least 1 and workers={workers} at least 0")
    part: Dataset[tuple[torch.Tensor, torch.Tensor]] = dataset
    if indices is not None:
        part = Subset(dataset, check_indices(indices, len(dataset)).tolist())
        if not len(indices):
            raise DataError("the loader was given an empty list of indices; pass None to read the whole data set")
    return DataLoader(
        part,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
    )


def check_indices(indices: Collection[int], n: int) -> np.ndarray:  # [len(indices)] int64
    """The indices as an array. Raises DataError for one outside 0..n-1 or given twice."""
    array = np.asarray(indices if isinstance(indices, np.ndarray | torch.Tensor) else list(indices))
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"indices must be a flat list of integers, got {array.dtype} with shape {list(array.shape)}")
    outside = array[(array < 0) | (array >= n)]
    if outside.size:
        raise DataError(f"index {outside[0]} is out of range: the data set has {n} samples, numbered from 0")
    values, counts = np.unique(array, return_counts=True)
    if len(values) != len(array):
        raise DataError(f"index {values[counts > 1][0]} is given twice")
    return array.astype(np.int64)
