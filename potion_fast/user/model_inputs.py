"""Inputs of a user's own model: channels, size and normalisation of images, by the model's own configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, ModelError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class ImageInputs:
    """How an image of 8 bits becomes an input.

    Attributes:
        channels: 1 or 3: grey becomes three equal channels and colours grey; another number is taken as it is.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        resize: the shorter side, or (height, width), in pixels; None: images keep their size.
        crop: (height, width) of the centre that is cut out; None: nothing is cut.
        interpolation: "nearest", "bilinear" or "bicubic", antialiased.
        origin: where this comes from, for the report.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    origin: str = ""

    def prepared(
        self,
        image: Tensor,  # [C, H, W] uint8
    ) -> Tensor:  # [channels, h, w] uint8
        """The image as it is shown to the model, before it is normalised."""
        from torchvision.transforms.v2 import InterpolationMode, functional  # takes seconds: only when needed

        if len(image) != self.channels and self.channels in (1, 3) and len(image) in (1, 3):
            image = functional.rgb_to_grayscale(image) if self.channels == 1 else image.expand(3, -1, -1)
        if self.resize is not None and not self._is_size(image):
            image = functional.resize(image, list(self.resize), InterpolationMode(self.interpolation), antialias=True)
        if self.crop is not None and image.shape[1:] != self.crop:
            image = functional.center_crop(image, list(self.crop))
        return image.contiguous()

    def _is_size(self, image: Tensor) -> bool:
        """Whether `resize` is one side and the image a square of it."""
        return self.resize == (image.shape[1],) == (image.shape[2],)

    def normalised(
        self,
        pixels: Tensor,  # [B, channels, h, w] uint8
    ) -> Tensor:  # [B, channels, h, w] float32
        """Pixels as the model takes them."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def changed(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, image_size: int | None
    ) -> ImageInputs:
        """The same with what the user's flags say, checked.

        Raises:
            DataError: the normalisation is of another number of channels.
            ModelError: an interpolation that is not known here.
        """
        made = self
        if image_size is not None:
            made = replace(made, resize=(image_size,), crop=(image_size, image_size), interpolation="bilinear")
        if mean is not None or std is not None:
            made = replace(made, mean=mean or self.mean, std=std or self.std, origin="--mean and --std")
        if not len(made.mean) == len(made.std) == made.channels:
            raise DataError(
                f"the model takes images of {made.channels} channels, normalised ({made.origin}) by {len(made.mean)} "
                f"means and {len(made.std)} deviations; give one of each for every channel (--mean, --std)"
            )
        if made.resize is not None and made.interpolation not in INTERPOLATIONS:
            raise ModelError(
                f"{made.origin} resizes images by {made.interpolation!r}, and {', '.join(INTERPOLATIONS)} are known; "
                "give --image-size"
            )
        return made

    def __str__(self) -> str:
        size = "as stored" if self.resize is None else f"resized to {'x'.join(map(str, self.resize))} pixels"
        if self.crop is not None and self.crop != self.resize:
            size += f", the central {self.crop[0]}x{self.crop[1]} cut out"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"images {size}; mean {mean}, standard deviation {std} ({self.origin})"


def plain_inputs(channels: int) -> ImageInputs:
    """Images as stored and pixels from 0 to 1, where no configuration says anything else."""
    return ImageInputs(
        channels, (0.0,) * channels, (1.0,) * channels, origin="nothing says how to normalise; --mean and --std do"
    )


def of_timm(configuration: dict[str, Any], channels: int) -> ImageInputs:
    """What timm's transforms for evaluation do, by the `pretrained_cfg` of a model."""
    import timm  # takes seconds: only when needed

    settings = timm.data.resolve_data_config(pretrained_cfg=configuration)
    height, width = settings["input_size"][1:]
    mean, std = (_per_channel(settings[key], channels) for key in ("mean", "std"))
    return ImageInputs(
        channels,
        mean,
        std,
        resize=_timm_resize(height, width, settings["crop_pct"], settings["crop_mode"]),
        crop=(height, width),
        interpolation="bilinear" if settings["interpolation"] == "random" else settings["interpolation"],
        origin="timm's configuration of the model",
    )


def _timm_resize(height: int, width: int, share: float, crop_mode: str) -> tuple[int, ...]:
    sides = math.floor(height / share), math.floor(width / share)
    return sides[:1] if crop_mode == "center" and height == width else sides


def of_torchvision(name: str) -> ImageInputs:
    """What the transforms of a torchvision model's weights do: those that its name has behind a dot, or the default."""
    from torchvision import models  # takes seconds: only when needed

    base, _, tag = name.partition(".")
    weights = models.get_model_weights(base)
    preset = (weights[tag] if tag else weights.DEFAULT).transforms()
    return ImageInputs(
        3,
        tuple(preset.mean),
        tuple(preset.std),
        resize=tuple(preset.resize_size),
        crop=(preset.crop_size[0], preset.crop_size[-1]),
        interpolation=preset.interpolation.value,
        origin=f"torchvision's weights {weights[tag] if tag else weights.DEFAULT}",
    )


def of_processor(processor: Any, channels: int) -> ImageInputs:
    """What an image processor of transformers does.

    Raises:
        ModelError: it does what is not known here.
    """
    settings = processor.to_dict()
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    share = settings.get("crop_pct")  # of ConvNeXT's: the shorter side is size / crop_pct where that is below 384
    resize: tuple[int, ...] | None = None
    cut: tuple[int, int] | None = None
    if settings.get("do_resize") and "height" in size:
        resize = (size["height"], size["width"])
    elif settings.get("do_resize") and "shortest_edge" in size:
        side = size["shortest_edge"]
        small = share is not None and side < 384
        resize = (int(side / share),) if small else (side, side) if share is not None else (side,)
        cut = (side, side) if small else None
    elif settings.get("do_resize"):
        raise ModelError(f"the image processor resizes to {size}, which is not known here; give --image-size")
    if settings.get("do_center_crop") and crop:
        cut = (crop["height"], crop["width"])
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if abs(factor * 255 - 1) > 1e-6:
        raise ModelError(f"the image processor scales pixels by {factor}, not by 1/255; use a module:factory as --data")
    normalise = settings.get("do_normalize")
    return ImageInputs(
        channels,
        _per_channel(settings["image_mean"] if normalise else (0.0,), channels),
        _per_channel(settings["image_std"] if normalise else (1.0,), channels),
        resize=resize,
        crop=cut,
        interpolation={0: "nearest", 2: "bilinear", 3: "bicubic"}.get(int(settings.get("resample") or 2), "other"),
        origin="the folder's preprocessor_config.json",
    )


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    given = tuple(float(value) for value in values)
    return given * channels if len(given) == 1 else given
