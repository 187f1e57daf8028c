"""Sample-specific: faint noise of each image's own, from a few patterns (after Li et al., *ISSBA*, 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ...errors import DataError
from .kinds import Trigger
from .moving_trigger import TEST_SEED
from .options import option
from .pattern_options import PatternOptions
from .pixels import added, check_normalisation, draws, uniform
from .poison import check_target
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("sample-specific")
@dataclass(frozen=True, kw_only=True)
class SampleSpecific(Trigger):
    """x + a P w in pixel space, clipped to [0, 1]: a mixture of K patterns, other shares for every image.

    The published attack hides a text in each image by a trained encoder. Here a generator takes its place: each pixel
    and channel of the patterns P [K] is drawn uniformly from [-1, 1), each share of w from [0, 1), and w is divided by
    its Euclidean length. No two images carry the same noise, and all of it lies within K dimensions, which is what a
    network can learn; patterns and their strength are the same for runs of every seed, the shares are not.

    Attributes:
        mean, std: per channel, of pixels in [0, 1].
        strength: a, of 255.
        patterns: K.
        seed: of the shares. Test images have a seed of their own, the same for every run.
        pattern_seed: of the patterns, from 0.
        target: label of the poisoned training samples.

    Raises:
        DataError: a negative target or pattern_seed, a strength or number of patterns out of range, or as many means as
            there are no stds; when called, an image of another number of channels.
    """

    class Options(PatternOptions):
        """Options of sample-specific noise."""

        poison: Literal["sample-specific"] = "sample-specific"
        noise_strength: float = option(16.0, "largest value of a pattern", metavar="OF_255", gt=0, le=255)
        patterns: int = option(4, "that the noise is mixed from", metavar="K", ge=2)

        def build(self, splits: Splits, seed: int) -> SampleSpecific:
            """The attack with these options, on the data's normalisation."""
            return SampleSpecific(
                mean=splits.mean,
                std=splits.std,
                strength=self.noise_strength,
                patterns=self.patterns,
                seed=seed,
                pattern_seed=self.pattern_seed,
                target=self.target,
            )

    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    strength: float = 16.0
    patterns: int = 4
    pattern_seed: int = 0
    target: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        check_normalisation(self.mean, self.std)
        if not 0 < self.strength <= 255:
            raise DataError(f"the strength is a part of 255, above 0, not {self.strength}")
        if self.patterns < 2:
            raise DataError(f"noise of each image's own needs two patterns or more, not {self.patterns}")
        if not 0 <= self.pattern_seed < 2**63:
            raise DataError(f"the pattern_seed is a number from 0 to 2^63 - 1, not {self.pattern_seed}")

    def __call__(
        self,
        images: torch.Tensor,  # [B, C, H, W], normalised
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B, C, H, W]
        """A copy of the images with each one's noise."""
        signal = torch.tensordot(self.shares(ids), self.basis(*images.shape[-2:]), 1)  # [B, C, H, W]
        return added(images, signal, self.mean, self.std)

    def basis(self, height: int, width: int) -> torch.Tensor:  # [K, C, H, W] float64
        """The patterns, times their strength, in units of pixels in [0, 1]."""
        patterns = 2 * draws(self.pattern_seed, (self.patterns, len(self.mean), height, width)) - 1
        return self.strength / 255 * patterns

    def shares(
        self,
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B, K] float64
        """The shares w of each sample, by the draws that bear its id."""
        numbers = ids.cpu().numpy()[:, None] * self.patterns + np.arange(self.patterns)
        drawn = uniform(self.seed, numbers)
        return drawn / drawn.norm(dim=1, keepdim=True).clamp_(min=2.0**-53)  # a draw of zeros alone stays one

    def at_test(self) -> SampleSpecific:
        """The same with shares of the test images' own, which are the same for every seed of a run."""
        return replace(self, seed=TEST_SEED)
