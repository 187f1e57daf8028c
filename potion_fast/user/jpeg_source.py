"""Photographs of any size, as ImageNet's, which are decoded, resized and cropped on demand."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ..errors import DataError
from .image_files import read_image
from .image_source import ImageSource

INTERPOLATIONS = ("bilinear", "bicubic")
CROP_MODES = ("center", "squash")
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the image's area, width / height
ATTEMPTS = 10


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a photograph before it is shown to a model; the defaults are torchvision's for ImageNet.

    Attributes:
        size: side of the square that the model sees, in pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        crop_pct: for evaluation, the share of the resized shorter side that the central crop keeps, in (0, 1].
        interpolation: "bilinear" or "bicubic", both antialiased.
        crop_mode: "center" keeps the proportions, "squash" resizes to a square.

    Raises:
        DataError: a value out of range.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop_pct <= 1:
            raise DataError(f"size={self.size} must be at least 1, and crop_pct={self.crop_pct} above 0 and at most 1")
        if self.interpolation not in INTERPOLATIONS or self.crop_mode not in CROP_MODES:
            raise DataError(
                f"images are resized {' or '.join(INTERPOLATIONS)} and cropped {' or '.join(CROP_MODES)}, "
                f"not {self.interpolation} and {self.crop_mode}"
            )

    @classmethod
    def of_model(cls, name: str | None) -> Preprocessing:
        """What a model by name was trained with.

        Args:
            name: for "timm:NAME" it is what timm.data.resolve_model_data_config gives, else the defaults.

        Raises:
            DataError: an unknown model of timm, or one whose preprocessing is not among those above.
        """
        if name is None or not name.startswith("timm:"):
            return cls()
        import timm  # takes seconds: only when needed

        config = timm.models.get_pretrained_cfg(name.removeprefix("timm:"))
        if config is None:
            raise DataError(f"timm has no model {name.removeprefix('timm:')!r}; timm.list_models() names them")
        settings = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
        channels, height, width = settings["input_size"]
        if channels != 3 or height != width:
            raise DataError(f"{name} takes {channels}x{height}x{width} pixels; squares of three channels are read")
        keys = ("mean", "std", "crop_pct", "interpolation", "crop_mode")
        return cls(size=height, **{key: settings[key] for key in keys})

    def evaluated(
        self,
        image: Tensor,  # [3, H, W] uint8
    ) -> Tensor:  # [3, size, size] uint8
        """Resize an image and crop its centre, as timm's transforms for evaluation do.

        Args:
            image: uint8 [3, H, W].

        Returns:
            uint8 [3, size, size].
        """
        from torchvision.transforms.v2 import functional  # takes seconds: only when needed

        side = math.floor(self.size / self.crop_pct)
        resized = self._resized(image, [side, side] if self.crop_mode == "squash" else [side])
        return functional.center_crop(resized, [self.size, self.size])

    def cropped(
        self,
        image: Tensor,  # [3, H, W] uint8
        box: tuple[int, int, int, int],
    ) -> Tensor:  # [3, size, size] uint8
        """Resize a part of an image.

        Args:
            image: uint8 [3, H, W].
            box: (top, left, height, width) of the part, in pixels.

        Returns:
            uint8 [3, size, size].
        """
        from torchvision.transforms.v2 import functional  # takes seconds: only when needed

        return self._resized(functional.crop(image, *box), [self.size, self.size])

    def _resized(self, image: Tensor, size: list[int]) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        # The strides of image[None] do not say that its channels are last, and torch would take another, longer way.
        batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # [1, 3, H, W]
        return functional.resize(batch, size, InterpolationMode(self.interpolation))[0]


class JpegSource(ImageSource):
    """Image files in a folder per class.

    They are decoded in full: a draft is no faster for 500 x 375 pixels and has other values. JPEGs go straight into a
    tensor where this torchvision can do it, with Pillow's values in less time; Pillow decodes the rest. torch resizes
    them in uint8, in a fifth of Pillow's time: the values are Pillow's but for a few in a thousand (15 % at an unlucky
    size) that are one step of 255 off, and a few in a million two. A random crop is cut out of the image as it is
    stored, before it joins a batch, as by timm. Batches have their channels last in memory, as decoded images do.

    Args:
        folder: where the files are.
        names: [N], of the files, relative to it.
        labels: int64 [N], class indices.
        preprocessing: what becomes of an image before it is shown to a model.
    """

    crops = True

    def __init__(self, folder: Path, names: Sequence[str], labels: Tensor, preprocessing: Preprocessing) -> None:
        import torchvision  # noqa: F401  # now, or every worker process imports it by itself

        self.folder = str(folder)
        # Bytes in one array, not a million objects: worker processes share its memory, and copy none of it.
        self.names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.labels = labels.to(torch.int64)
        self.preprocessing = preprocessing

    @override
    def path(self, index: int) -> Path | None:
        return Path(self.folder, os.fsdecode(self.names[index]))

    @override
    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """As evaluated: resized, the centre cropped."""
        return self._read(indices, None)

    @override
    def augmented(self, indices: Sequence[int] | Tensor, visit: int) -> Tensor:
        """A random part of each image, resized, and mirrored left to right with probability 1/2."""
        return self._read(indices, visit)

    def _read(self, indices: Sequence[int] | Tensor, visit: int | None) -> Tensor:
        rows = torch.as_tensor(indices, dtype=torch.int64).tolist()
        size = self.preprocessing.size
        with torch.inference_mode(False):  # of this thread alone: others could not write to its tensors
            pixels = torch.empty(len(rows), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

        def read(place: int) -> None:
            image = decode(os.path.join(self.folder, os.fsdecode(self.names[rows[place]])))
            if visit is None:
                pixels[place] = self.preprocessing.evaluated(image)
                return
            draw = random.Random(visit << 64 | rows[place])  # a generator of its own: any process draws the same
            image = self.preprocessing.cropped(image, crop_box(image.shape[1], image.shape[2], draw))
            pixels[place] = image.flip(2) if draw.random() < 0.5 else image

        threads = min(torch.get_num_threads(), len(rows))  # 1 in a worker process
        if threads <= 1:
            for place in range(len(rows)):
                read(place)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, range(len(rows))))  # list(): raises what a task raised
        return pixels


def decode(path: str) -> Tensor:  # [3, H, W] uint8
    """Read an image file in RGB.

    Args:
        path: of the file.

    Returns:
        uint8 [3, H, W].

    Raises:
        DataError: it is missing, truncated, no image, or one that `to_rgb` refuses.
    """
    try:
        return jpeg(path)
    except (OSError, RuntimeError):
        pass  # Pillow reads it, or raises a clearer error
    pixels = np.array(read_image(path))  # [H, W, 3]
    return torch.from_numpy(pixels).permute(2, 0, 1)  # torch resizes channels-last memory fastest


def jpeg(path: str) -> Tensor:  # [3, H, W] uint8
    """Read a JPEG in RGB or grey, with the values that Pillow gives.

    Args:
        path: of the file.

    Returns:
        uint8 [3, H, W].

    Raises:
        OSError: it cannot be read.
        RuntimeError: it is something else, or this torchvision decodes no JPEG.
    """
    import torchvision  # noqa: F401  # registers its operators; takes seconds: only when needed

    if not hasattr(torch.ops.image, "decode_jpeg"):
        raise RuntimeError("this torchvision decodes no JPEG")
    image: Tensor = torch.ops.image.decode_jpeg(torch.from_numpy(np.fromfile(path, dtype=np.uint8)), 0, False)
    if len(image) == 4:
        raise RuntimeError("CMYK, which Pillow converts otherwise")
    return image if len(image) == 3 else image.expand(3, -1, -1)


def crop_box(height: int, width: int, draw: random.Random) -> tuple[int, int, int, int]:
    """Draw a part of an image, as timm's and torchvision's transforms do.

    Its area is uniform in 8 to 100 % of the image's, the logarithm of its width / height uniform between 3/4 and 4/3;
    where ten such boxes do not fit, the largest central one of a proportion within these bounds.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        draw: generator of the random numbers.

    Returns:
        (top, left, height, width) of the part, in pixels.
    """
    for _ in range(ATTEMPTS):
        area = draw.uniform(*AREA) * (width * height)
        ratio = math.exp(draw.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w
