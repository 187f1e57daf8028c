"""A data set of the user's own, from a "module:factory"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional
from typing_extensions import override

from ...errors import DataError
from ...user.image_source import ImageSource
from ...user.user_code import find_user_code
from .splits import IMAGENET_MEAN, IMAGENET_STD, Splits

LABELS = ("targets", "labels")  # attributes that hold them, in torchvision's data sets and others


class UserSource(ImageSource):
    """A map-style data set of (image, label): a Pillow image, read as RGB, or uint8 [C, H, W]; a whole number.

    Labels come from the attribute `targets` or `labels` where there is one, else every sample is read once for them.

    Args:
        dataset: the user's data set.
        image_size: scale the shorter side to this and crop the centre; None: all images must have the first one's size.
        what: names the data set in errors.
    """

    def __init__(self, dataset: Any, image_size: int | None, what: str) -> None:
        self.dataset, self.image_size, self.what = dataset, image_size, what
        try:
            count = len(dataset)
        except TypeError as error:
            raise DataError(f"{what} has no length; it must be a map-style data set: len() and [index]") from error
        if count == 0:
            raise DataError(f"{what} holds no sample")
        self.shape: tuple[int, ...] = self._pixels(self._sample(0)[0], 0).shape
        given = next((getattr(dataset, name) for name in LABELS if hasattr(dataset, name)), None)
        labels = [self._sample(index)[1] for index in range(count)] if given is None else list(given)
        if len(labels) != count:
            raise DataError(f"{what} has {count} samples and {len(labels)} labels")
        self.labels = torch.tensor([self._label(label, index) for index, label in enumerate(labels)])

    @override
    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        images = []
        for index in torch.as_tensor(indices, dtype=torch.int64).tolist():
            image = self._pixels(self._sample(index)[0], index)
            if image.shape != self.shape:
                raise DataError(
                    f"image {index} of {self.what} is {list(image.shape)}, the first one {list(self.shape)}; "
                    "pass image_size to bring all images to one size"
                )
            images.append(image)
        return torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8)

    def _sample(self, index: int) -> Any:
        sample = self.dataset[index]
        if not isinstance(sample, (tuple, list)) or len(sample) < 2:
            raise DataError(f"sample {index} of {self.what} must be (image, label), not {type(sample).__name__}")
        return sample

    def _pixels(self, image: Any, index: int) -> Tensor:  # [C, H, W] uint8
        if isinstance(image, Image.Image):
            image = functional.pil_to_tensor(image.convert("RGB"))
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise DataError(
                f"image {index} of {self.what} must be a Pillow image or uint8 [C, H, W], not {kind}: it is augmented, "
                "normalised and poisoned here, in this order"
            )
        if self.image_size is not None and image.shape[1:] != (self.image_size, self.image_size):
            image = functional.center_crop(functional.resize(image, [self.image_size]), [self.image_size] * 2)
        pixels: Tensor = image
        return pixels

    def _label(self, label: Any, index: int) -> int:
        number = label.item() if hasattr(label, "item") else label
        if not isinstance(number, int) or number < 0:
            raise DataError(f"label {index} of {self.what} must be a whole number from 0, not {label!r}")
        return number


def load_user_dataset(name: str, root: Path | None, image_size: int | None, normalised: bool) -> Splits:
    """Load what the factory of a "module:factory" makes.

    The factory is code of the user's that is imported and run. It gives `Splits`, or (train, test), each an
    `ImageSource` or a map-style data set, see `UserSource`. Of a pair the classes are named by the attribute `classes`
    of the training set or by their numbers, and images are augmented as those of a folder.

    Args:
        name: "module:factory"; only names that the user typed may come here.
        root: argument of the factory; None: it has none.
        image_size: see `UserSource`.
        normalised: whether the caller has a normalisation of its own; otherwise three channels are normalised by
            ImageNet's statistics.

    Returns:
        Training and test images.

    Raises:
        DataError: there is no such module or factory, or it gives something else; its own errors pass.
    """
    product = find_user_code(name, DataError)(*([] if root is None else [root]))
    if isinstance(product, Splits):
        if image_size is not None:
            raise DataError(f"{name!r} made Splits, whose images have their size; leave image_size out")
        _check(product, name)
        return product
    if not isinstance(product, (tuple, list)) or len(product) != 2:
        raise DataError(f"{name!r} must make Splits or a pair (train, test) of data sets, not {type(product).__name__}")
    train, test = (
        part if isinstance(part, ImageSource) else UserSource(part, image_size, f"the {what} set of {name!r}")
        for part, what in zip(product, ("training", "test"), strict=True)
    )
    if not len(train) or not len(test):
        raise DataError(f"the {'test' if len(train) else 'training'} set of {name!r} holds no sample")
    channels, height, width = train.images([0]).shape[1:]
    if channels != 3 and not normalised:
        raise DataError(f"the images of {name!r} have {channels} channels; pass mean and std, a number for each")
    classes = getattr(product[0], "classes", range(int(train.labels.max()) + 1))
    splits = Splits(
        name=name,
        train=train,
        test=test,
        classes=tuple(map(str, classes)),
        mean=IMAGENET_MEAN if channels == 3 else (0.0,) * channels,
        std=IMAGENET_STD if channels == 3 else (1.0,) * channels,
        channels=channels,
        size=(height, width),
        pad=min(height, width) // 8,
        flip=True,
    )
    _check(splits, name)
    return splits


def _check(splits: Splits, name: str) -> None:
    """Raise DataError unless both sets fit what the splits say of them."""
    for what, source in (("training", splits.train), ("test", splits.test)):
        if not len(source):
            raise DataError(f"the {what} set of {name!r} holds no sample")
        image = source.images([0])
        expected = (1, splits.channels, *splits.size)
        if image.dtype != torch.uint8 or image.shape != expected:
            raise DataError(
                f"the {what} set of {name!r} gives {image.dtype} {list(image.shape)} for one image; "
                f"uint8 {list(expected)} was expected"
            )
        if int(source.labels.min()) < 0 or int(source.labels.max()) >= len(splits.classes):
            raise DataError(
                f"the {what} set of {name!r} has labels from {int(source.labels.min())} to {int(source.labels.max())}, "
                f"and there are {len(splits.classes)} classes"
            )
