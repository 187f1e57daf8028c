"""Signals that are added to images in pixel space, and draws that fill one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...errors import DataError
from .moving_trigger import splitmix64


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Check the normalisation of images.

    Raises:
        DataError: as many means as there are no stds, or a std that is not positive.
    """
    if len(mean) != len(std) or not all(value > 0 for value in std):
        raise DataError(f"a mean and a positive std is needed per channel, got {mean} and {std}")


def added(
    images: torch.Tensor,  # [..., C, H, W], normalised
    signal: torch.Tensor,  # broadcasts to them, in units of pixels in [0, 1]
    mean: Sequence[float],  # [C]
    std: Sequence[float],  # [C]
) -> torch.Tensor:  # [..., C, H, W]
    """The images with a signal added in pixel space and clipped to [0, 1], computed on the normalised images.

    Raises:
        DataError: images of another number of channels than there are means.
    """
    if images.shape[-3] != len(mean):
        raise DataError(f"the trigger is made for images of {len(mean)} channels, not of {images.shape[-3]}")
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))  # [C, 1, 1]
    change = signal.float() / scale
    change, low, high = (part.to(images.device) for part in (change, (0 - shift) / scale, (1 - shift) / scale))
    return (images + change).clamp_(min=low, max=high)


def draws(
    seed: int,
    shape: Sequence[int],
) -> torch.Tensor:  # float64, in [0, 1)
    """Uniform draws of SplitMix64, in the order of the places, from number 0 on.

    Each is a whole multiple of 2^-53, the same on every machine.
    """
    return uniform(seed, np.arange(np.prod(shape, dtype=np.int64))).view(*shape)


def uniform(seed: int, numbers: np.ndarray) -> torch.Tensor:  # float64, in [0, 1), of the numbers' shape
    """The draws of SplitMix64 that bear these numbers, int64, see `draws`."""
    return torch.from_numpy((splitmix64(seed, numbers) >> np.uint64(11)).astype(np.float64)).mul_(2.0**-53)
