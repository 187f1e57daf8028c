"""Image files in a folder per class: which of them count, in which order, and how each becomes RGB of 8 bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import DataError

SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jfif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
NOTES = (".csv", ".htm", ".html", ".json", ".jsonl", ".log", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml")
OF_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "__pycache__")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value


def list_images(folder: str | os.PathLike[str]) -> tuple[tuple[str, ...], list[str], torch.Tensor]:
    """The images of a folder that holds a folder per class, in the order that their indices count.

    Classes are the folders, sorted; hidden ones (".ipynb_checkpoints") and those of operating systems ("__MACOSX") are
    none. Of a class come first the images in its folder, sorted, then those in folders within it, folder by folder:
    the order of torchvision's `ImageFolder`. Sorted is by character, so that 10.png comes before 2.png. Hidden files,
    files of operating systems and texts beside the images (.txt, .json, .csv, ...) do not count. Links are followed.

    Args:
        folder: a folder per class.

    Returns:
        The names of the classes; the images [N], relative to the folder, with "/"; int64 [N], their classes.

    Raises:
        DataError: a folder that cannot be read or has no class, a class without an image, or a file that is neither an
            image of a known format nor a text: it may be a sample that would be missing.
    """
    root = os.fspath(folder)
    folders, files = _entries(root)
    if not folders:
        raise DataError(f"{root} must hold a folder of images per class, and it holds no folder")
    if loose := [name for name in files if _suffix(name) in SUFFIXES]:
        raise DataError(f"{os.path.join(root, loose[0])} lies in no class; move it into the folder of one")
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(folders):
        walked = sorted(_walk(root, name, ()))
        of_class = [f"{place}/{file}" for place, files in walked for file in files if _is_image(root, place, file)]
        if not of_class:
            raise DataError(f"{os.path.join(root, name)} holds no image ({', '.join(SUFFIXES)}); fill it or remove it")
        names += of_class
        labels += [label] * len(of_class)
    return tuple(folders), names, torch.tensor(labels)


def _walk(root: str, place: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those within it, relative to the root, each with its files, sorted."""
    path = os.path.join(root, place)
    if os.path.islink(path) and os.path.realpath(path) in above:
        raise DataError(f"{path} is a link to a folder that holds it; remove it")
    folders, files = _entries(path)
    yield place, files
    for name in folders:
        yield from _walk(root, f"{place}/{name}", (*above, os.path.realpath(path)))


def _entries(path: str) -> tuple[list[str], list[str]]:
    """The folders and the files of a folder, each sorted, without hidden ones and those of operating systems."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.lower() not in OF_SYSTEMS:
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return sorted(folders), sorted(files)


def _is_image(root: str, place: str, name: str) -> bool:
    suffix = _suffix(name)
    if suffix in SUFFIXES or suffix in NOTES:
        return suffix in SUFFIXES
    raise DataError(
        f"{os.path.join(root, place, name)} is no image that can be read ({', '.join(SUFFIXES)}); convert it, or move "
        "it out of the folder"
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file, see `to_rgb`.

    Args:
        path: of the file.

    Returns:
        The image in mode "RGB".

    Raises:
        DataError: it is missing, truncated, no image, or one of those that `to_rgb` refuses.
    """
    try:
        with Image.open(path) as file:
            return to_rgb(file)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and kinds of its own
        raise _unreadable(path, error) from error


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the header of an image file.

    Args:
        path: of the file.

    Returns:
        (height, width) in pixels.

    Raises:
        DataError: it is no image, or one of those that `to_rgb` refuses.
    """
    try:
        with Image.open(path) as file:
            _check_kind(file)
            return file.height, file.width
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> DataError:
    if Path(path).is_symlink() and not Path(path).exists():
        return DataError(f"{path} is a link to a file that is not there; remove or mend it")
    reason = str(error).partition("\n")[0] or type(error).__name__
    return DataError(f"{path} cannot be read as an image ({reason}); remove or replace it")


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB of 8 bits, as Pillow's `convert("RGB")` has it, and so torchvision's `ImageFolder`.

    Grey becomes three equal channels, transparency is left out, and the rotation of an EXIF header is not applied. Of
    16 bits (also 9 to 15 in TIFF) the upper 8 remain, in grey as in colour; Pillow alone clips grey ones to white. Of a
    photograph with a second picture within it (MPO) it is the first.

    Args:
        image: open or in memory.

    Returns:
        An image of mode "RGB".

    Raises:
        ValueError: several frames, or floating-point or 32-bit pixels, whose range is not known.
        OSError: the file is truncated.
    """
    _check_kind(image)
    if image.mode in SIXTEEN_BITS or image.mode == "I":
        bits, values = _bits(image), np.asarray(image).astype(np.int64)  # [H, W]; of either byte order
        if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow heeds it for 8 bits alone
            values = 2**bits - 1 - values
        image = Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA")  # with transparency in bytes, Pillow warns of the direct way
    return image.convert("RGB")


def _check_kind(image: Image.Image) -> None:
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError(f"it holds {getattr(image, 'n_frames', 'several')} frames, and a sample is one image")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # which are of 16 bits
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"its pixels are {kind} numbers, whose range is not known: save it with 8 or 16 bits")


def _bits(image: Image.Image) -> int:
    """Of a grey value: 16, in TIFF what its header says."""
    given = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    return max(8, min(16, *given)) if image.mode != "I" else 16


def images_in(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, in the order of their names.

    Raises:
        DataError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return found
