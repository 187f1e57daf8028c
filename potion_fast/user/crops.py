"""Augmentation of images of one size: a random crop out of a black border, and mirroring."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Crops(NamedTuple):
    """A random window for each image of a batch, on the CPU, whose generator gives the same for every device.

    Attributes:
        top: int64 [B], first row of the window in the image with its border.
        left: int64 [B], first column.
        mirrored: bool [B], left to right; None where no image is.
    """

    top: torch.Tensor
    left: torch.Tensor
    mirrored: torch.Tensor | None

    def of(
        self,
        rows: torch.Tensor,  # [M] int64
    ) -> Crops:
        """The windows of some images of the batch."""
        return Crops(self.top[rows], self.left[rows], None if self.mirrored is None else self.mirrored[rows])


def draw_crops(batch: int, pad: int, flip: bool) -> Crops:
    """Shifts of up to `pad` pixels each way and, with `flip`, mirroring with probability 1/2."""
    top, left = torch.randint(2 * pad + 1, (2, batch))
    return Crops(top, left, torch.rand(batch) < 0.5 if flip else None)


def border(
    pixels: torch.Tensor,  # [B, C, H, W]
    pad: int,
) -> torch.Tensor:  # [B, C, H + 2 pad, W + 2 pad]
    """The images with a black border."""
    return torch.nn.functional.pad(pixels, (pad, pad, pad, pad))


def crop(
    framed: torch.Tensor,  # [B, C, H + 2 pad, W + 2 pad]
    pad: int,
    crops: Crops,
) -> torch.Tensor:  # [B, C, H, W]
    """The windows, cut out of the images with their border and mirrored."""
    batch, _, height, width = framed.shape
    top, left = (start.to(framed.device, non_blocking=True) for start in (crops.top, crops.left))
    windows = framed.unfold(2, height - 2 * pad, 1).unfold(3, width - 2 * pad, 1)  # [B, C, 2 pad + 1, 2 pad + 1, H, W]
    cropped = windows[torch.arange(batch, device=framed.device), :, top, left]  # [B, C, H, W]
    if crops.mirrored is None:
        return cropped
    mirrored = crops.mirrored.view(-1, 1, 1, 1).to(framed.device, non_blocking=True)
    return torch.where(mirrored, cropped.flip(3), cropped)
