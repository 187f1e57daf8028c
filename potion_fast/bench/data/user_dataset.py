"""A data set of the user's own, from a "module:factory"."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import DataError
from ...user.image_source import ImageSource
from ...user.samples import LABEL_KEYS
from ...user.user_code import called, find_user_code
from ...user.user_source import UserSource
from .splits import IMAGENET_MEAN, IMAGENET_STD, Splits

GREY = 0.5  # mean and standard deviation of images that are not of three channels
MOST_CLASSES = 1_000_000
TEST = ("test", "validation", "valid", "val")  # names of the test set in a dict, the first there is


def load_user_dataset(name: str, root: Path | None, image_size: int | None) -> Splits:
    """Load what the factory of a "module:factory" makes.

    The factory is code of the user's that is imported and run. It gives `Splits`, or (train, test), each an
    `ImageSource` or a map-style data set, see `UserSource`; or a dict of "train" and "test" (or "validation"). Of a
    pair the classes are named by the attribute `classes` of the training set (of Hugging Face's by the names of its
    label) or by their numbers, images are augmented as those of a folder, and normalised by ImageNet's statistics where
    they have three channels, else by a mean and a standard deviation of 0.5.

    Args:
        name: "module:factory"; only names that the user typed may come here.
        root: argument of the factory; without it the environment variable POTION_FAST_DATA, where one is needed.
        image_size: see `UserSource`.

    Returns:
        Training and test images.

    Raises:
        DataError: there is no such module or factory, it fails, or it gives something else.
    """
    factory = find_user_code(name, DataError)
    product = called(name, factory, DataError, *_arguments(name, factory, root))
    if isinstance(product, Splits):
        if image_size is not None:
            raise DataError(f"{name!r} made Splits, whose images have their size; leave --image-size (image_size=) out")
        _check(product, name)
        return product
    pair = _pair(product, name)
    train, test = (
        part if isinstance(part, ImageSource) else UserSource(part, image_size, f"the {split} set of {name!r}")
        for part, split in zip(pair, ("training", "test"), strict=True)
    )
    if not len(train) or not len(test):
        raise DataError(f"the {'test' if len(train) else 'training'} set of {name!r} holds no sample")
    channels, height, width = train.images([0]).shape[1:]
    splits = Splits(
        name=name,
        train=train,
        test=test,
        classes=_classes(pair[0], train.labels, test.labels, name),
        mean=IMAGENET_MEAN if channels == 3 else (GREY,) * channels,
        std=IMAGENET_STD if channels == 3 else (GREY,) * channels,
        channels=channels,
        size=(height, width),
        pad=min(height, width) // 8,
        flip=True,
    )
    _check(splits, name, "; --image-size (image_size=) brings all images to one size")
    return splits


def _arguments(name: str, factory: Callable[..., Any], root: Path | None) -> list[Path]:
    """The folder of the data, where the factory takes one."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except ValueError:  # of what has no signature, as some of C
        return [] if root is None else [root]
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if root is not None and not places:
        raise DataError(f"{name!r} takes no argument, and a folder was given; leave --root out")
    needed = bool(places) and places[0].default is places[0].empty and places[0].kind != places[0].VAR_POSITIONAL
    given = root or (os.environ.get("POTION_FAST_DATA") if needed else None)
    if needed and not given:
        raise DataError(f"{name!r} takes an argument, the folder of the data; give --root or set POTION_FAST_DATA")
    return [Path(given).expanduser()] if given else []


def _pair(product: Any, name: str) -> tuple[Any, Any]:
    """The training set and the test set."""
    if isinstance(product, Mapping):
        test = next((key for key in TEST if key in product), None)
        if "train" in product and test is not None:
            return product["train"], product[test]
        raise DataError(f"{name!r} made a dict of {', '.join(map(str, product)) or 'nothing'}; it needs train and test")
    if not isinstance(product, (tuple, list)) or len(product) != 2:
        count = f" of {len(product)}" if isinstance(product, (tuple, list)) else ""
        raise DataError(
            f"{name!r} must make Splits or a pair (train, test) of data sets, not {type(product).__name__}{count}"
        )
    return product[0], product[1]


def _classes(dataset: Any, train: torch.Tensor, test: torch.Tensor, name: str) -> tuple[str, ...]:
    """Names of the classes: the data set's own, or numbers."""
    named = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)  # of Hugging Face's
    if named is None and isinstance(features, Mapping):
        named = next((features[key].names for key in LABEL_KEYS if hasattr(features.get(key), "names")), None)
    if named is not None:
        return tuple(map(str, named))
    low, high = int(min(train.min(), test.min())), int(train.max())
    if low > 0:
        raise DataError(f"the labels of {name!r} go from {low} to {high}; they must count from 0: take {low} off each")
    if high >= MOST_CLASSES:
        raise DataError(f"the labels of {name!r} go up to {high}; they must number the classes from 0")
    return tuple(map(str, range(high + 1)))


def _check(splits: Splits, name: str, advice: str = "") -> None:
    """Raise DataError unless both sets fit what the splits say of them."""
    for split, source in (("training", splits.train), ("test", splits.test)):
        if not len(source):
            raise DataError(f"the {split} set of {name!r} holds no sample")
        image = source.images([0])
        expected = (1, splits.channels, *splits.size)
        if image.dtype != torch.uint8 or image.shape != expected:
            raise DataError(
                f"the {split} set of {name!r} gives {image.dtype} {list(image.shape)} for one image; "
                f"uint8 {list(expected)} was expected{advice if image.shape[:2] == expected[:2] else ''}"
            )
        low, high = int(source.labels.min()), int(source.labels.max())
        if low < 0 or high >= len(splits.classes):
            raise DataError(
                f"the {split} set of {name!r} has labels from {low} to {high}, "
                f"and there are {len(splits.classes)} classes"
                + ("; take 1 off each: they must count from 0" if low == 1 and high == len(splits.classes) else "")
            )
