"""A data set of the user's own, from a "module:factory"."""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import DataError
from ...user.image_source import ImageSource
from ...user.user_code import find_user_code
from ...user.user_source import UserSource
from .splits import IMAGENET_MEAN, IMAGENET_STD, Splits


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
        part if isinstance(part, ImageSource) else UserSource(part, image_size, f"the {split} set of {name!r}")
        for part, split in zip(product, ("training", "test"), strict=True)
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
    for split, source in (("training", splits.train), ("test", splits.test)):
        if not len(source):
            raise DataError(f"the {split} set of {name!r} holds no sample")
        image = source.images([0])
        expected = (1, splits.channels, *splits.size)
        if image.dtype != torch.uint8 or image.shape != expected:
            raise DataError(
                f"the {split} set of {name!r} gives {image.dtype} {list(image.shape)} for one image; "
                f"uint8 {list(expected)} was expected"
            )
        low, high = int(source.labels.min()), int(source.labels.max())
        if low < 0 or high >= len(splits.classes):
            raise DataError(
                f"the {split} set of {name!r} has labels from {low} to {high}, "
                f"and there are {len(splits.classes)} classes"
            )
