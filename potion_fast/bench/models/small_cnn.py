"""A plain convolutional network that trains in seconds on a CPU."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from ...errors import ModelError


class SmallCNN(nn.Module):
    """`depth` blocks of 3x3 convolution, ReLU and 2x2 max-pooling, then a linear layer; no normalisation layers.

    Images must be at least 2^depth pixels high and wide; 8 x 8 to 32 x 32 is what it is meant for.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        width: channels of the first block; each further block has twice as many.
        depth: number of blocks.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        channels = [in_channels, *(width * 2**block for block in range(depth))]
        self.smallest = 2**depth
        self.blocks = nn.Sequential()
        for before, after in zip(channels, channels[1:], strict=False):
            self.blocks.extend([nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)])
        self.pool = nn.AdaptiveMaxPool2d(2)  # 2 x 2 cells: where a stroke lies tells a 6 from a 9
        self.classifier = nn.Linear(4 * channels[-1], num_classes)

    @override
    def forward(
        self,
        images: torch.Tensor,  # [B, C, H, W]
    ) -> torch.Tensor:  # [B, num_classes]
        if min(images.shape[-2:]) < self.smallest:
            raise ModelError(
                f"this network needs images of at least {self.smallest}x{self.smallest}, "
                f"got {images.shape[-2]}x{images.shape[-1]}; reduce depth"
            )
        return self.classifier(self.pool(self.blocks(images)).flatten(1))
