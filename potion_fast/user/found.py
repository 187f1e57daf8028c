"""Samples that a user names: by index, by file name, or by copies of their images in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import DataError
from .image_files import SUFFIXES, images_in, read_image
from .indices import Files, read_indices
from .training_files import TrainingFiles


def read_found(name: str, files: TrainingFiles) -> list[int]:
    """Indices of the samples that a user names.

    Args:
        name: a file or a list as `read_indices` takes them, file names with commas between them, or a folder of images,
            each of which is one of the training images: the same file, or the same pixels.
        files: the training data.

    Returns:
        Different indices, one at least.

    Raises:
        DataError: one of them is not among the training data, naming it, or there is none.
    """
    path_of: Callable[[int], Path | None] = lambda index: None if files.paths is None else files.paths[index]  # noqa: E731
    if os.path.isdir(name):
        return _of_copies(Path(name), files)
    if os.path.exists(name) or not any(part.strip().lower().endswith(SUFFIXES) for part in name.split(",")):
        return read_indices(name, len(files), path_of)
    by_file, found = Files(len(files), path_of), []
    for part in filter(None, (part.strip() for part in name.split(","))):
        named = [int(part)] if part.isdigit() and int(part) < len(files) else [i for i, _ in by_file.named(part)]
        if len(named) != 1:
            what = f"is the name of {len(named)} samples; give more of its path" if named else "is none of its samples"
            raise DataError(f"{part!r} of the found samples {what} ({files.name})")
        found += named
    return list(dict.fromkeys(found))


def _of_copies(folder: Path, files: TrainingFiles) -> list[int]:
    """The training images of which a folder holds copies."""
    copies = images_in(folder)
    if files.paths is None:
        raise DataError(f"{folder} is a folder of images, and {files.name} are no image files; give indices")
    by_size: dict[int, list[int]] = {}  # of files, which are cheaper to compare than pixels
    for index, path in enumerate(files.paths):
        by_size.setdefault(path.stat().st_size, []).append(index)
    found: list[int] = []
    missing: list[Path] = []
    for copy in copies:
        digest = _digest(copy)
        same = [i for i in by_size.get(copy.stat().st_size, ()) if _digest(files.paths[i]) == digest]
        found += same
        if not same:
            missing.append(copy)
    if missing:
        by_pixels: dict[str, list[int]] = {}
        for index, path in enumerate(files.paths):
            by_pixels.setdefault(_pixel_digest(path), []).append(index)
        for copy in missing:
            if not (same := by_pixels.get(_pixel_digest(copy), [])):
                raise DataError(
                    f"{copy} is none of the training images of {files.name}, neither its file nor its pixels"
                )
            found += same
    return torch.tensor(found).unique().tolist()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _pixel_digest(path: Path) -> str:
    image = read_image(path)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
