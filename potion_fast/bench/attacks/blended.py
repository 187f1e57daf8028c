"""Blended: a faint pattern of noise over the whole image (Chen et al., *Targeted Backdoor Attacks*, 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ...errors import DataError
from .kinds import Trigger
from .options import option
from .pattern_options import PatternOptions
from .pixels import check_normalisation, draws
from .poison import check_target
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("blended")
@dataclass(frozen=True, kw_only=True)
class Blended(Trigger):
    """(1 - a) x + a p in pixel space, with a pattern p that every image shares; computed on the normalised image.

    Each pixel and channel of p is drawn uniformly from [0, 1), so that no pixel leaves [0, 1]. On the normalised image
    p is (p - mean) / std, per channel.

    Attributes:
        mean, std: per channel, of pixels in [0, 1].
        strength: a, the pattern's share of the image, in (0, 1].
        pattern_seed: of p, from 0. It is no seed of a run: runs of several seeds have the same trigger.
        target: label of the poisoned training samples.

    Raises:
        DataError: a negative target or pattern_seed, a strength out of range, or as many means as there are no stds;
            when called, an image of another number of channels.
    """

    class Options(PatternOptions):
        """Options of a blended pattern."""

        poison: Literal["blended"] = "blended"
        strength: float = option(0.2, "the pattern's share of the image, in (0, 1]", metavar="SHARE", gt=0, le=1)

        def build(self, splits: Splits, seed: int) -> Blended:
            """The attack with these options, on the data's normalisation."""
            return Blended(mean=splits.mean, std=splits.std, **self.model_dump(exclude={"poison"}))

    mean: tuple[float, ...]
    std: tuple[float, ...]
    strength: float = 0.2
    pattern_seed: int = 0
    target: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        if not 0 < self.strength <= 1:
            raise DataError(f"the strength is the pattern's share of the image, in (0, 1], not {self.strength}")
        if not 0 <= self.pattern_seed < 2**63:
            raise DataError(f"the pattern_seed is a number from 0 to 2^63 - 1, not {self.pattern_seed}")
        check_normalisation(self.mean, self.std)

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
        ids: torch.Tensor | None = None,  # every sample gets the same pattern
    ) -> torch.Tensor:  # [..., C, H, W]
        """A copy of the images with the pattern blended in."""
        if images.shape[-3] != len(self.mean):
            raise DataError(f"the pattern is made for images of {len(self.mean)} channels, not of {images.shape[-3]}")
        mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (self.mean, self.std))  # [C, 1, 1]
        pattern = (self.pattern(images.shape[-2], images.shape[-1]) - mean) / std  # [C, H, W]
        return torch.lerp(images, pattern.to(images), self.strength)

    def pattern(self, height: int, width: int) -> torch.Tensor:  # [C, H, W] float64
        """p, in units of pixels in [0, 1): draws of SplitMix64 by channel, row and column, so a size has its own."""
        return draws(self.pattern_seed, (len(self.mean), height, width))
