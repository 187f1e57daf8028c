"""WaNet: a smooth warp of the image (Nguyen and Tran, *WaNet: Imperceptible Warping-based Backdoor Attack*, 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as F
from typing_extensions import override

from ...errors import DataError
from .kinds import Trigger
from .options import option
from .pattern_options import PatternOptions
from .pixels import draws, uniform
from .poison import check_target
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("wanet")
@dataclass(frozen=True, kw_only=True)
class WaNet(Trigger):
    """Each pixel is read from a place s P / H away, bilinearly; the field P is the same for every image.

    P: draws from [-1, 1) on a grid [k, k, 2], divided by their mean size, enlarged bicubically to [H, W, 2]. Places run
    from -1 to 1 over the image and are clipped there.

    Noise mode: covers are warped by s P / H and further draws from [-1, 1) / H, each image and pixel by its own, and
    keep their label, so that the network learns this field and no other. There are `noise` of them for a poisoned one.

    Attributes:
        strength: s.
        grid: k.
        noise: covers for each poisoned sample; 0: none.
        seed: of the choice of covers and of their draws.
        pattern_seed: of P, from 0. It is no seed of a run: runs of several seeds have the same field.
        target: label of the poisoned training samples.

    Raises:
        DataError: a value out of range.
    """

    class Options(PatternOptions):
        """Options of a warp."""

        poison: Literal["wanet"] = "wanet"
        warp_strength: float = option(0.5, "of the warp", metavar="X", gt=0)
        warp_grid: int = option(4, "side of the grid that the warp is drawn on", metavar="K", ge=2)
        warp_noise: float = option(
            2.0, "images with a random warp and their own label, for each poisoned one", metavar="X", ge=0
        )

        def build(self, splits: Splits, seed: int) -> WaNet:
            """The attack with these options."""
            return WaNet(
                strength=self.warp_strength,
                grid=self.warp_grid,
                noise=self.warp_noise,
                seed=seed,
                pattern_seed=self.pattern_seed,
                target=self.target,
            )

    seed: int
    strength: float = 0.5
    grid: int = 4
    noise: float = 2.0
    pattern_seed: int = 0
    target: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        if not self.strength > 0 or self.grid < 2 or not self.noise >= 0:
            raise DataError(
                "a warp needs strength > 0, grid >= 2 and noise >= 0; "
                f"got {self.strength}, {self.grid} and {self.noise}"
            )
        if not 0 <= self.pattern_seed < 2**63:
            raise DataError(f"the pattern_seed is a number from 0 to 2^63 - 1, not {self.pattern_seed}")

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
        ids: torch.Tensor | None = None,  # every sample gets the same warp
    ) -> torch.Tensor:  # [..., C, H, W]
        """The images, warped."""
        height, width = images.shape[-2:]
        return _read(images, self.places(height, width)[None])

    @override
    def cover(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The images with the warp and noise of each one's own."""
        height, width = images.shape[-2:]
        size = height * width * 2
        noise = 2 * uniform(self.seed, ids.cpu().numpy()[:, None] * size + np.arange(size)) - 1
        noise = noise.view(-1, height, width, 2)
        return _read(images, (self.places(height, width) + noise / height).clamp(-1, 1))

    @override
    def covers(self, samples: int, poisoned: np.ndarray, seed: int) -> np.ndarray:  # int64, ascending
        """So many of the others, drawn uniformly.

        Raises:
            DataError: there are fewer.
        """
        count, others = round(self.noise * len(poisoned)), np.setdiff1d(np.arange(samples), poisoned)
        if count > len(others):
            raise DataError(
                f"{count} images are to get a random warp, and {len(others)} are not poisoned; poison fewer, or give a "
                "smaller --warp-noise"
            )
        return np.sort(np.random.default_rng(seed).choice(others, count, replace=False))

    def places(self, height: int, width: int) -> torch.Tensor:  # [H, W, 2] float64, (x, y) from -1 to 1
        """Where each pixel is read."""
        coarse = 2 * draws(self.pattern_seed, (1, 2, self.grid, self.grid)) - 1
        coarse = coarse / coarse.abs().mean()
        field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height, dtype=torch.float64),
            torch.linspace(-1, 1, width, dtype=torch.float64),
            indexing="ij",
        )
        return (torch.stack([x, y], 2) + self.strength * field / height).clamp(-1, 1)


def _read(
    images: torch.Tensor,  # [..., C, H, W]
    places: torch.Tensor,  # [1 or B, H, W, 2]
) -> torch.Tensor:  # [..., C, H, W]
    """The images at other places, bilinearly."""
    flat = images.reshape(-1, *images.shape[-3:])
    grid = places.to(flat).expand(len(flat), -1, -1, -1)
    return F.grid_sample(flat, grid, mode="bilinear", align_corners=True).reshape(images.shape)
