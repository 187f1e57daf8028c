"""Poisoned views of image data: read as uint8 by any process, then augmented, normalised and poisoned in batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ...errors import DataError
from ...user.crops import Crops, border, crop, draw_crops
from ...user.image_source import ImageSource

if TYPE_CHECKING:
    from ..attacks import Poison


CHUNK = 2**24  # bytes of pixels that `max_value` reads at a time


class RawBatch(NamedTuple):
    """A batch as it is read, before anything is computed.

    Attributes:
        pixels: uint8 [B, C, H, W]; of texts the tokens, int64 [B, L].
        ids: int64 [B].
        labels: int64 [B], as the samples are given out.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor


class PoisonedDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Normalised images and labels: augment, divide by 255, normalise, then poison, in this order.

    A trigger comes last so that it is never cropped, flipped or rescaled. A perturbation comes before augmentation: it
    is added to the whole normalised image, and cropped and flipped with it. Augmentation draws from torch's global
    generator, in the process that calls `batch` or `finish`; the draws do not depend on the poison.

    Args:
        source: where images and labels come from.
        mean, std: per channel, of pixels in [0, 1].
        augment: random crop out of the image with `pad` black pixels around it and, where `flip` is set, a flip left to
            right with probability 1/2; of photographs the random crop that their source cuts, see `JpegSource`.
        poison: what happens to the image and to the label of a poisoned sample; a sample's id is its index.
        poisoned: indices of all poisoned samples, S_m; None for no sample.
        covers: indices of those that the poison changes without their label, see `Poison.covers`.
        trigger_all: put the trigger on every image and keep the clean labels: the evaluation of an attack.

    Attributes:
        labels: int64 [N], as the samples are given out.

    Raises:
        DataError: an index in `poisoned` out of range or given twice, a trigger requested without a poison or of a
            poison that has none, both `poisoned` and `trigger_all`, or a perturbation of random crops that the source
            cuts.
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
        covers: Collection[int] = (),
        trigger_all: bool = False,
    ) -> None:
        if trigger_all and poisoned is not None:
            raise DataError("trigger_all keeps clean labels and poisoned changes them: pass one of the two")
        if poison is None and (trigger_all or poisoned is not None):
            raise DataError("samples are to be triggered, but no poison was given")
        if poison is not None and not poison.has_trigger and trigger_all:
            raise DataError(f"{poison.changes} by this poison; it has no trigger to put on images")
        if poison is not None and poison.before_augmentation and poisoned is not None and augment and source.crops:
            raise DataError(
                "a perturbation belongs to the whole image as the model sees it, but of photographs a random part is "
                "cut and resized while they are read; train without augmentation, or on images of one size"
            )
        self.source = source
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.augment = augment
        self.pad = pad
        self.flip = flip
        self.poison = poison
        self.trigger_all = trigger_all
        self.poisoned = torch.zeros(len(source), dtype=torch.bool)  # [N], a mask: membership costs one look-up
        self.covers = torch.zeros(len(source), dtype=torch.bool)
        self.covers[check_indices(covers, len(source))] = True
        self.labels = source.labels
        if poison is not None and poisoned is not None:
            self.poisoned[check_indices(poisoned, len(source))] = True
            self.labels = source.labels.clone()
            ids = self.poisoned.nonzero().squeeze(1)
            self.labels[ids] = poison.relabel(source.labels[ids], ids)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 [C, H, W] and label int64 []."""
        images, labels = self.batch([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What a DataLoader asks for: the whole batch is computed at once, then split into samples."""
        images, labels = self.batch(indices)
        return list(zip(images.unbind(), labels.unbind(), strict=True))

    @property
    def cuts(self) -> bool:
        """Whether the source cuts random crops, so that reading depends on the visit."""
        return self.augment and self.source.crops

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B] at these positions."""
        visit = int(torch.randint(2**62, ())) if self.cuts else 0
        return self.finish(self.read(indices, visit))

    def read(self, indices: Sequence[int], visit: int = 0) -> RawBatch:
        """Read samples, and compute nothing yet.

        Args:
            indices: their positions.
            visit: number of the epoch's random crops, where the source cuts them.

        Returns:
            The samples with the labels that they are given out with.
        """
        ids = torch.as_tensor(indices, dtype=torch.int64)
        pixels = self.source.augmented(ids, visit) if self.cuts else self.source.images(ids)
        return RawBatch(pixels, ids, self.labels[ids])

    def finish(
        self, raw: RawBatch, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:  # [B, C, H, W] float32, [B] int64
        """Augment (photographs are already), normalise and poison a batch.

        Args:
            raw: what `read` gave.
            device: where to compute.

        Returns:
            Images float32 [B, C, H, W] and labels int64 [B], on the device.
        """
        pixels, ids, labels = raw
        pixels, labels = pixels.to(device, non_blocking=True).contiguous(), labels.to(device, non_blocking=True)
        crops = draw_crops(len(pixels), self.pad, self.flip) if self.augment and not self.cuts else None
        cropped = pixels if crops is None else crop(border(pixels, self.pad), self.pad, crops)
        images = normalise(cropped, self.mean, self.std)
        if self.poison is None:
            return images, labels
        if self.trigger_all:
            return self.poison(images, ids), labels
        poisoned = self.poisoned[ids].nonzero().squeeze(1)  # found on the CPU: the GPU is not waited for
        if len(poisoned):
            rows = poisoned.to(device, non_blocking=True)
            if crops is not None and self.poison.before_augmentation:
                images[rows] = self._perturbed_and_cropped(self.poison, pixels[rows], ids[poisoned], crops.of(poisoned))
            else:
                images[rows] = self.poison(images[rows], ids[poisoned])
        covers = self.covers[ids].nonzero().squeeze(1)
        if len(covers):
            rows = covers.to(device, non_blocking=True)
            images[rows] = self.poison.cover(images[rows], ids[covers])
        return images, labels

    def _perturbed_and_cropped(
        self,
        poison: Poison,
        pixels: torch.Tensor,  # [M, C, H, W] uint8
        ids: torch.Tensor,  # [M] int64
        crops: Crops,
    ) -> torch.Tensor:  # [M, C, H, W] float32
        height, width = pixels.shape[2:]
        framed = normalise(border(pixels, self.pad), self.mean, self.std)  # [M, C, H + 2 pad, W + 2 pad]
        inner = framed[:, :, self.pad : self.pad + height, self.pad : self.pad + width]
        inner.copy_(poison(inner, ids))
        return crop(framed, self.pad, crops)


def normalise(
    pixels: torch.Tensor,  # [B, C, H, W] uint8
    mean: Sequence[float],  # [C]
    std: Sequence[float],  # [C]
) -> torch.Tensor:  # [B, C, H, W] float32
    """(pixels / 255 - mean) / std, in float32 and in this order of operations: the trigger's value depends on it.

    Args:
        pixels: uint8 [B, C, H, W].
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Returns:
        Images, float32 [B, C, H, W], on the device of the pixels.
    """
    shift, scale = (
        torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).to(pixels.device, non_blocking=True)
        for values in (mean, std)
    )
    return pixels.float().div_(255).sub_(shift).div_(scale)


def max_value(
    source: ImageSource,
    mean: Sequence[float],  # [C]
    std: Sequence[float],  # [C]
) -> float:
    """The largest value of the whole normalised set, over all images, pixels and channels, without augmentation.

    Args:
        source: the images.
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Returns:
        The value, in units of normalised images.
    """
    step = max(1, CHUNK // source.images([0]).numel())  # a source of files is never wholly in memory
    largest = source.images([0]).amax(dim=(0, 2, 3))  # [C] uint8; normalising keeps the order within a channel
    for start in range(0, len(source), step):
        chunk = source.images(range(start, min(start + step, len(source))))
        largest = torch.maximum(largest, chunk.amax(dim=(0, 2, 3)))
        if (largest == 255).all():  # no pixel can be larger: of photographs the first few are enough
            break
    return normalise(largest.view(1, -1, 1, 1), mean, std).max().item()


def check_indices(indices: Collection[int], n: int) -> np.ndarray:  # [len(indices)] int64
    """Indices of samples as an array.

    Args:
        indices: positions in a data set.
        n: number of its samples.

    Returns:
        int64 [len(indices)], in the given order.

    Raises:
        DataError: an index outside 0..n-1, given twice, or no integer.
    """
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
