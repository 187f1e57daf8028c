"""BadNet: a small patch of one value in a corner (Gu et al., *BadNets*, 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import DataError

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True, kw_only=True)
class BadNet:
    """Overwrites a square in one corner, flush with both edges, with one value for all channels.

    Attributes:
        value: in units of the normalised image; `potion_fast.data.max_value` gives the experiments' choice.
        size: side of the square in pixels.
        corner: "top-left", "top-right", "bottom-left" or "bottom-right".
        target: label of the poisoned training samples.

    Raises:
        DataError: an unknown corner, a size below 1, a negative target or a value that is not finite; when called, an
            image smaller than the patch.
    """

    value: float
    size: int = 3
    corner: str = "bottom-right"
    target: int = 0

    def __post_init__(self) -> None:
        if self.corner not in CORNERS:
            raise DataError(f"unknown corner {self.corner!r}; choose one of {', '.join(CORNERS)}")
        if self.size < 1 or self.target < 0 or not math.isfinite(self.value):
            raise DataError(f"a patch needs size >= 1, target >= 0 and a finite value; got {self}")

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
    ) -> torch.Tensor:  # [..., C, H, W]
        """A copy of the images with the patch in it."""
        height, width = images.shape[-2:]
        if self.size > min(height, width):
            raise DataError(f"a patch of {self.size}x{self.size} pixels does not fit images of {height}x{width}")
        vertical, horizontal = self.corner.split("-")
        rows = slice(0, self.size) if vertical == "top" else slice(height - self.size, height)
        columns = slice(0, self.size) if horizontal == "left" else slice(width - self.size, width)
        triggered = images.clone()
        triggered[..., rows, columns] = self.value
        return triggered
