"""A trigger described on the command line: a square, a function of the user's, or images with and without it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..detection.described_trigger import Trigger
from ..errors import DataError
from ..utils.asked_samples import with_image
from ..utils.inputs import BatchInputs, image_of
from .image_files import images_in
from .model_inputs import ImageInputs
from .own_config import TRIGGER_FORMS
from .own_data import ImageSet, PreparedFiles
from .user_code import called, find_user_code

COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
CORNERS = {"top-left": (0, 0), "top-right": (0, 1), "bottom-left": (1, 0), "bottom-right": (1, 1)}


@dataclass(frozen=True)
class Square:
    """A square of one colour.

    Attributes:
        colour: red, green, blue, 0 to 255.
        size: side, in pixels of the image as the model sees it.
        place: row and column of the upper left corner, or the name of a corner of the image.
        inputs: the normalisation.
    """

    colour: tuple[int, int, int]
    size: int
    place: tuple[int, int] | str
    inputs: ImageInputs

    def __call__(self, inputs: BatchInputs) -> BatchInputs:
        """Images [B, C, H, W] with the square."""
        image = image_of(inputs)
        assert image is not None
        height, width = image.shape[2:]
        if isinstance(self.place, str):
            down, right = CORNERS[self.place]
            top, left = down * (height - self.size), right * (width - self.size)
        else:
            top, left = self.place
        if min(top, left) < 0 or top + self.size > height or left + self.size > width:
            raise DataError(f"a square of {self.size} at {top},{left} lies outside of images of {height} x {width}")
        colour = torch.tensor(self.colour, dtype=torch.uint8).view(3, 1, 1).expand(3, height, width)
        image = image.clone()
        image[:, :, top : top + self.size, left : left + self.size] = self.inputs.normalised(
            self.inputs.prepared(colour)[None, :, :1, :1]
        )
        return with_image(inputs, image)


def read_trigger(text: str, inputs: ImageInputs | None) -> Trigger:
    """The trigger of which a user says what it is.

    Args:
        text: see `own_config.TRIGGER_FORMS`.
        inputs: what becomes of images; None where they are none, or the user's own inputs.

    Raises:
        DataError: it is none of the forms, or does not fit the data.
    """
    folders = [Path(part).expanduser() for part in text.split(",")]
    if len(folders) == 2 and all(folder.is_dir() for folder in folders):
        given, plain = (images_in(folder) for folder in folders)
        if [path.name for path in given] != [path.name for path in plain]:
            raise DataError(f"{folders[0]} and {folders[1]} do not hold images of the same file names")
        return _dataset(given, inputs, text), _dataset(plain, inputs, text)
    if (square := _square(text, inputs)) is not None:
        return square
    if ":" in text and not os.path.exists(text):
        function = find_user_code(text, DataError)

        def put_on(batch: BatchInputs) -> BatchInputs:
            made: Any = called(text, function, DataError, batch)
            return made

        return put_on
    raise DataError(f"--trigger {text!r} is none of: {TRIGGER_FORMS}")


def _square(text: str, inputs: ImageInputs | None) -> Square | None:
    """The square that a text says; None where it says none."""
    colour, _, rest = text.partition(":")
    size, _, place = rest.partition(":")
    known = COLOURS.get(colour.lower(), _hexadecimal(colour))
    if known is None or not size:
        return None
    at: tuple[int, int] | str = place
    if place not in CORNERS:
        numbers = place.split(",")
        if len(numbers) != 2 or not all(number.strip().isdecimal() for number in numbers):
            raise DataError(f"--trigger {text!r}: the place is {', '.join(CORNERS)} or ROW,COLUMN, not {place!r}")
        at = int(numbers[0]), int(numbers[1])
    if not size.isdecimal() or not int(size):
        raise DataError(f"--trigger {text!r}: the side is a whole number of pixels, not {size!r}")
    return Square(known, int(size), at, _of_images(inputs, text))


def _hexadecimal(colour: str) -> tuple[int, int, int] | None:
    digits = colour.removeprefix("#")
    if colour == digits or len(digits) != 6:
        return None
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        return None
    return red, green, blue


def _dataset(paths: list[Path], inputs: ImageInputs | None, text: str) -> Dataset[Any]:
    known = _of_images(inputs, text)
    return ImageSet(PreparedFiles(paths, torch.zeros(len(paths), dtype=torch.int64), known), known)


def _of_images(inputs: ImageInputs | None, text: str) -> ImageInputs:
    if inputs is None:
        raise DataError(
            f"--trigger {text!r} is one of images, and how these become inputs is not known here; give a "
            "module:function that is called with batches of inputs"
        )
    return inputs
