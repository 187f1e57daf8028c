"""Augmentation that gradients pass through: a shift by fractions of a pixel, and a mirror."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def draw(samples: int, shift: float, flip: bool, generator: torch.Generator) -> Tensor:  # [samples, 3] float32
    """Draw what becomes of each sample.

    Each takes three draws in any case.

    Args:
        samples: number of samples.
        shift: largest shift, in pixels.
        flip: whether samples are mirrored, with probability 1/2.
        generator: on the CPU.

    Returns:
        Pixels to the right and down, uniform in [-shift, shift], and -1 where the sample is mirrored, else 1.
    """
    uniform = torch.rand(samples, 3, generator=generator)  # on the CPU: the same draws for every device
    mirrored = (uniform[:, 2:] < 0.5) & flip
    return torch.cat([(2 * uniform[:, :2] - 1) * shift, torch.where(mirrored, -1.0, 1.0)], dim=1)


def shift_and_flip(
    images: Tensor,  # [B, C, H, W]
    draws: Tensor,  # [B, 3], of `draw`
) -> Tensor:  # [B, C, H, W]
    """Each image shifted, between its pixels by bilinear interpolation, then mirrored.

    What the shift brings in is 0, of normalised images their mean colour; as in the public code of Witches' Brew.
    """
    height, width = images.shape[2:]
    right, down, mirror = draws.to(images).unbind(1)  # [B] each
    zeros = torch.zeros_like(right)
    # Where in the image each place of the result is read; coordinates run from -1 to 1 between the outer edges.
    rows = torch.stack([mirror, zeros, -2 * right / width], dim=1)  # [B, 3]
    columns = torch.stack([zeros, torch.ones_like(right), -2 * down / height], dim=1)  # [B, 3]
    grid = F.affine_grid(torch.stack([rows, columns], dim=1), list(images.shape), align_corners=False)  # [B, H, W, 2]
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
