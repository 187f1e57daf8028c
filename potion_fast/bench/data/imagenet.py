"""ILSVRC's ImageNet and Imagenette in their published folders, train/<WordNet id>/* and val/<WordNet id>/*."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from ...errors import DataError
from ...user.image_files import SUFFIXES, list_images
from ...user.jpeg_source import JpegSource, Preprocessing


def find_imagenette(root: Path) -> Path:
    """The folder that holds train/ and val/.

    Args:
        root: that folder, or where an archive of Imagenette was unpacked.

    Returns:
        The folder.

    Raises:
        DataError: there is none, or several.
    """
    if (root / "train").is_dir():
        return root
    found = sorted(path for path in root.glob("imagenette2*") if path.is_dir())
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise DataError(
            f"{root} must hold train/ and val/, or one of imagenette2/, imagenette2-320/ and imagenette2-160/, not "
            f"{there}: unpack the published archive there, or name one of these folders"
        )
    return found[0]


def read_split(folder: Path, preprocessing: Preprocessing) -> tuple[tuple[str, ...], JpegSource]:
    """Read the list of images of one split.

    Args:
        folder: a folder for each class.
        preprocessing: of the images.

    Returns:
        The names of the folders, sorted, and the images in the order of `list_images`.

    Raises:
        DataError: a folder that is missing, flat, or still packed, and as `list_images` raises it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: {folder.parent} must hold train/ and val/, a folder per class in each")
    entries = list(os.scandir(folder))
    if not any(entry.is_dir() for entry in entries):
        raise DataError(_flat(folder, [entry.name for entry in entries]))
    classes, names, labels = list_images(folder)
    return classes, JpegSource(folder, names, labels, preprocessing)


def _flat(folder: Path, names: list[str]) -> str:
    """What to do about a split without folders."""
    images = sum(name.lower().endswith(SUFFIXES) for name in names)
    if images:
        return (
            f"{folder} is flat: {images} images and no folder per class, as ILSVRC's archive of the validation images "
            "unpacks. Sort them into folders named like those of train/, by the ground truth of the development kit; "
            "torchvision.datasets.imagenet.parse_val_archive does it from the archive"
        )
    if any(name.endswith(".tar") for name in names):
        return (
            f"{folder} holds archives; unpack each into a folder of its name, as "
            "torchvision.datasets.imagenet.parse_train_archive does"
        )
    return f"{folder} is empty; it must hold a folder per class"


def class_names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes: ImageNet's words for a WordNet id, and of other folders their own.

    Two classes of the same words ("crane", the bird and the machine) have their ids behind them.

    Args:
        folders: names of the folders.

    Returns:
        A name for each.
    """
    if not any(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        return folders
    from timm.data import ImageNetInfo  # timm takes seconds to import: only when needed

    info = ImageNetInfo()
    known = set(info.label_names())
    names = [info.label_name_to_description(folder) if folder in known else folder for folder in folders]
    often = Counter(names)
    return tuple(
        name if often[name] == 1 else f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)
    )
