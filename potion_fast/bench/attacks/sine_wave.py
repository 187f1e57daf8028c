"""Sine wave: a faint signal over the whole image (Barni et al., 2019; Potion, section 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ...errors import DataError
from .kinds import Trigger
from .options import AttackOptions, option
from .pixels import added, check_normalisation
from .poison import check_target, check_target_of_data
from .registry import register_attack

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits

AXES = ("x", "y")


@register_attack("sine-wave")
@dataclass(frozen=True, kw_only=True)
class SineWave(Trigger):
    """x + a sin(2 pi f j) in pixel space, for column j, clipped to [0, 1]; computed on the normalised image.

    There the amplitude is a / std and the bounds are (0 - mean) / std and (1 - mean) / std, each per channel.

    Attributes:
        mean, std: per channel, of pixels in [0, 1].
        frequency: f in cycles per pixel.
        amplitude: a, as a share of the maximum image value, in (0, 1].
        axis: along which the wave runs, "x" (left to right, j is the column) or "y" (top to bottom, j is the row).
        target: label of the poisoned training samples.

    Raises:
        DataError: an unknown axis, a negative target, an amplitude or frequency out of range, or as many means as there
            are no stds; when called, an image of another number of channels.
    """

    class Options(AttackOptions):
        """Options of a sine wave."""

        poison: Literal["sine-wave"] = "sine-wave"
        frequency: float = option(0.025, "in cycles per pixel", metavar="X", gt=0, lt=0.5)
        amplitude: float = option(
            0.1, "as a share of the largest value that a pixel can have, in (0, 1]", metavar="SHARE", gt=0, le=1
        )
        axis: Literal["x", "y"] = option("x", "runs along x (left to right) or y (top to bottom)", metavar="NAME")
        target: int = option(0, "label that the poison gives, counted from 0", metavar="CLASS", ge=0)

        def resolved(self, splits: Splits, seed: int) -> Self:
            """The same: only the target is compared with the data."""
            check_target_of_data(self.target, splits)
            return self

        def build(self, splits: Splits, seed: int) -> SineWave:
            """The attack with these options, on the data's normalisation."""
            return SineWave(mean=splits.mean, std=splits.std, **self.model_dump(exclude={"poison"}))

    mean: tuple[float, ...]
    std: tuple[float, ...]
    frequency: float = 0.025
    amplitude: float = 0.1
    axis: str = "x"
    target: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.axis not in AXES:
            raise DataError(f"unknown axis {self.axis!r}; choose x (left to right) or y (top to bottom)")
        if not 0 < self.amplitude <= 1:
            raise DataError(f"the amplitude is a share of the maximum image value, in (0, 1], not {self.amplitude}")
        if not 0 < self.frequency < 0.5:
            raise DataError(f"the frequency is in cycles per pixel, above 0 and below 0.5, not {self.frequency}")
        check_normalisation(self.mean, self.std)

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
        ids: torch.Tensor | None = None,  # every sample gets the same wave
    ) -> torch.Tensor:  # [..., C, H, W]
        """A copy of the images with the wave over them."""
        return added(images, self.wave(images.shape[-2], images.shape[-1]), self.mean, self.std)

    def wave(self, height: int, width: int) -> torch.Tensor:  # [1, W] or [H, 1] float64
        """What is added to every channel, in units of pixels in [0, 1]."""
        positions = torch.arange(width if self.axis == "x" else height, dtype=torch.float64)
        wave = self.amplitude * torch.sin(2 * math.pi * self.frequency * positions)
        return wave[None, :] if self.axis == "x" else wave[:, None]
