"""A map-style data set of the user's own as a source of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from ..errors import DataError
from .image_source import ImageSource

LABELS = ("targets", "labels")  # attributes that hold them, in torchvision's data sets and others


class UserSource(ImageSource):
    """A map-style data set of (image, label): a Pillow image, read as RGB, or uint8 [C, H, W]; a whole number.

    Labels come from the attribute `targets` or `labels` where there is one, else every sample is read once for them.

    Args:
        dataset: the user's data set.
        image_size: scale the shorter side to this and crop the centre; None: all images must have the first one's size.
        name: of the data set, in errors.
    """

    def __init__(self, dataset: Any, image_size: int | None, name: str) -> None:
        self.dataset, self.image_size, self.name = dataset, image_size, name
        try:
            count = len(dataset)
        except TypeError as error:
            raise DataError(f"{name} has no length; it must be a map-style data set: len() and [index]") from error
        if count == 0:
            raise DataError(f"{name} holds no sample")
        self.shape: tuple[int, ...] = self._pixels(self._sample(0)[0], 0).shape
        given = next((getattr(dataset, name) for name in LABELS if hasattr(dataset, name)), None)
        labels = [self._sample(index)[1] for index in range(count)] if given is None else list(given)
        if len(labels) != count:
            raise DataError(f"{name} has {count} samples and {len(labels)} labels")
        self.labels = torch.tensor([self._label(label, index) for index, label in enumerate(labels)])

    @override
    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        images = []
        for index in torch.as_tensor(indices, dtype=torch.int64).tolist():
            image = self._pixels(self._sample(index)[0], index)
            if image.shape != self.shape:
                raise DataError(
                    f"image {index} of {self.name} is {list(image.shape)}, the first one {list(self.shape)}; "
                    "pass image_size to bring all images to one size"
                )
            images.append(image)
        return torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8)

    def _sample(self, index: int) -> Any:
        sample = self.dataset[index]
        if not isinstance(sample, (tuple, list)) or len(sample) < 2:
            raise DataError(f"sample {index} of {self.name} must be (image, label), not {type(sample).__name__}")
        return sample

    def _pixels(self, image: Any, index: int) -> Tensor:  # [C, H, W] uint8
        if isinstance(image, Image.Image):
            from torchvision.transforms import functional  # takes seconds: only when needed

            image = functional.pil_to_tensor(image.convert("RGB"))
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise DataError(
                f"image {index} of {self.name} must be a Pillow image or uint8 [C, H, W], not {kind}: it is augmented, "
                "normalised and poisoned here, in this order"
            )
        if self.image_size is not None and image.shape[1:] != (self.image_size, self.image_size):
            from torchvision.transforms import functional

            image = functional.center_crop(functional.resize(image, [self.image_size]), [self.image_size] * 2)
        pixels: Tensor = image
        return pixels

    def _label(self, label: Any, index: int) -> int:
        number = label.item() if hasattr(label, "item") else label
        if not isinstance(number, int) or number < 0:
            raise DataError(f"label {index} of {self.name} must be a whole number from 0, not {label!r}")
        return number
