"""Images and labels as people's data sets give them, as uint8 pixels and whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .image_files import to_rgb

CHANNELS = (1, 3, 4)
IMAGE_KEYS, LABEL_KEYS = ("pixel_values", "image", "img"), ("labels", "label")  # of samples that are dicts
OVERSHOOT = 1e-3  # that a resized image in [0, 1] may have


def pixels_of(image: Any) -> Tensor:
    """The pixels of one image.

    Args:
        image: a Pillow image, which becomes RGB, see `to_rgb`; a tensor [C, H, W] or an array [H, W, C], the other way
            round where only that makes one, three or four channels; or [H, W]. Its numbers are uint8, uint16 (the upper
            8 bits remain), other whole numbers from 0 to 255, booleans, or floating-point numbers from 0 to 1, which
            are rounded to 8 bits.

    Returns:
        uint8 [C, H, W].

    Raises:
        ValueError: something else.
        OSError: a file that is truncated.
    """
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).contiguous()
    if not isinstance(image, (Tensor, np.ndarray)):
        raise ValueError(f"it is a {type(image).__name__}, and must be a Pillow image, a tensor or an array")
    of_tensor = isinstance(image, Tensor)
    values = _array(image)
    if values.ndim not in (2, 3) or not values.size:
        wanted = "[C, H, W]" if of_tensor else "[H, W, C]"
        raise ValueError(
            f"it is {image.dtype} {list(image.shape)}, and must be {wanted} or [H, W], of one pixel or more"
        )
    if values.ndim == 2:
        values = values[None]
    else:
        first, last = values.shape[0] in CHANNELS, values.shape[2] in CHANNELS
        if (last and not first) if of_tensor else (last or not first):
            values = values.transpose(2, 0, 1)
    return torch.from_numpy(np.require(_eight_bits(values), requirements=["C", "W"]))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """The same as uint8."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"it is of {values.dtype}, and must be of numbers")
    low, high = values.min().item(), values.max().item()
    if values.dtype.kind != "f" and 0 <= low <= high <= 255:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:
        return (values.astype(np.float64) * 255).round().clip(0, 255).astype(np.uint8)
    raise ValueError(
        f"its values ({values.dtype}) go from {low:.5g} to {high:.5g}, and must be uint8, or from 0 to 1 in floating "
        "point: give images that are not normalised yet, that is done here"
    )


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def class_numbers(labels: Sequence[Any] | Tensor, name: str) -> Tensor:
    """The labels of a data set as class numbers.

    Args:
        labels: [N] whole numbers from 0, of any type or dtype, or [N, 1]; or one-hot [N, C].
        name: of the data set, in errors.

    Returns:
        int64 [N].

    Raises:
        DataError: naming the first that is something else.
    """
    listed = labels if isinstance(labels, Tensor | np.ndarray) else [_unwrapped(label) for label in labels]
    try:
        array = _array(listed) if isinstance(listed, Tensor) else np.asarray(listed)
    except ValueError:  # of several shapes
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        for index, label in enumerate(listed):
            if np.asarray(label).dtype.kind not in "biuf":
                raise DataError(f"label {index} of {name} must be a whole number from 0, not {label!r}")
        raise DataError(f"the labels of {name} have several shapes; each must be a whole number from 0")
    array = array.reshape(len(array), -1)  # [N, C], or [N, 1]
    if array.shape[1] != 1:
        wrong = ((array == 1).sum(axis=1) != 1) | ((array != 0).sum(axis=1) != 1)
        numbers, wanted = array.argmax(axis=1), "one class, or one-hot: a single 1 among zeros"
    else:
        numbers, wanted = array[:, 0], "a whole number from 0"
        wrong = ~(np.isfinite(numbers) & (numbers >= 0) & (numbers == np.floor(numbers)))
    if wrong.any():
        index = int(wrong.argmax())
        shown = array[index].tolist()
        given = shown[0] if len(shown) == 1 else shown[:10]
        raise DataError(f"label {index} of {name} must be {wanted}, not {given!r}")
    return torch.from_numpy(numbers.astype(np.int64))


def _unwrapped(label: Any) -> Any:
    return _array(label) if isinstance(label, Tensor) else label
