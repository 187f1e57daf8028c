"""The box that a perturbation stays in: a max norm, and the pixels that an image can have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import DataError


@dataclass(frozen=True)
class Box:
    """|δ| <= epsilon and 0 <= x + δ <= 1 for every pixel, of perturbations in units of the normalised images.

    Attributes:
        epsilon: in [0, 1] pixel space, 16/255 say; of normalised images it is epsilon / std of the channel.
        mean: that the images were normalised with, a number for each channel.
        std: the same.

    Raises:
        DataError: an epsilon or std that is not above 0, or a mean and std of different length.
    """

    epsilon: float
    mean: Sequence[float]  # [C]
    std: Sequence[float]  # [C]

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise DataError(f"epsilon={self.epsilon} must be above 0, in [0, 1] pixel space: 16 / 255, say")
        if len(self.mean) != len(self.std) or not all(0 < value < math.inf for value in self.std):
            raise DataError(f"mean {self.mean} and std {self.std} must be a number for each channel, std above 0")

    def radius(self, like: Tensor) -> Tensor:  # [C, 1, 1]
        """The largest |δ| of each channel, in units of the normalised images."""
        return self.epsilon / self._channels(self.std, like)

    def project(
        self,
        perturbations: Tensor,  # [B, C, H, W]
        images: Tensor,  # [B, C, H, W], without them
    ) -> Tensor:  # [B, C, H, W]
        """The nearest perturbations in the box."""
        mean, std = self._channels(self.mean, images), self._channels(self.std, images)
        radius = self.radius(images)
        low = torch.maximum(-mean / std - images, -radius)
        high = torch.minimum((1 - mean) / std - images, radius)
        return torch.minimum(torch.maximum(perturbations, low), high)

    @staticmethod
    def _channels(values: Sequence[float], like: Tensor) -> Tensor:  # [C, 1, 1]
        return torch.tensor(list(values), dtype=like.dtype, device=like.device).view(-1, 1, 1)
