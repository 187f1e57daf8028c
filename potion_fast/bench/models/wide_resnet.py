"""WRN-28-10 of the Potion and Corrective Machine Unlearning experiments (Zagoruyko and Komodakis, 2016)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from typing_extensions import override

from ...errors import ModelError
from .initialisation import zero_biases

BLOCKS = 4  # in each of the three layers: 28 = 6 · 4 + 4 convolutions
POOLED = 8  # pixels that the last pooling takes together


class WideResNet(nn.Module):
    """Wide residual network of depth 28; 36,490,250 parameters at width 10, three channels and ten classes.

    It differs from the published one: convolutions have a bias, the stride is in a block's second convolution, the
    shortcut that changes the shape is a convolution of the block's input with a batch norm behind it, and neither batch
    norm nor ReLU follows the last block. No dropout.

    Images are 32 x 32; any size that leaves one window of 8 x 8 works, 29 x 29 to 60 x 60.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        width: the widening factor: the three layers have 16, 32 and 64 times as many channels.
    """

    splits = {  # k -> the modules with the last k layers of weights, shortcuts not counted
        5: ("layer3.2", "layer3.3", "classifier"),
        13: ("layer2.2", "layer2.3", "layer3", "classifier"),
    }

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.layer1 = layer(16, 16 * width, stride=1)
        self.layer2 = layer(16 * width, 32 * width, stride=2)
        self.layer3 = layer(32 * width, 64 * width, stride=2)
        self.classifier = nn.Linear(64 * width, num_classes)
        zero_biases(self)  # weights keep PyTorch's default, Kaiming uniform with a = sqrt(5)

    @override
    def forward(
        self,
        images: torch.Tensor,  # [B, C, H, W]
    ) -> torch.Tensor:  # [B, num_classes]
        height, width = images.shape[-2:]
        if not all(POOLED <= -(-side // 4) < 2 * POOLED for side in (height, width)):
            raise ModelError(f"WRN-28-10 needs images of 29x29 to 60x60, got {height}x{width}; 32x32 is usual")
        x = self.layer3(self.layer2(self.layer1(self.stem(images))))  # [B, 64 · width, H / 4, W / 4]
        return self.classifier(F.avg_pool2d(x, POOLED).flatten(1))


class WideBlock(nn.Module):
    """shortcut(x) + conv(relu(norm(conv(relu(norm(x)))))), the second convolution with the stride."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride), nn.BatchNorm2d(after))

    @override
    def forward(
        self,
        x: torch.Tensor,  # [B, before, H, W]
    ) -> torch.Tensor:  # [B, after, H / stride, W / stride]
        inner = self.conv1(F.relu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.relu(self.norm2(inner)))


def layer(before: int, after: int, *, stride: int) -> nn.Sequential:
    """Four blocks; the first changes the number of channels and, by its stride, the size.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: of the first block.

    Returns:
        The blocks.
    """
    first = WideBlock(before, after, stride)
    return nn.Sequential(first, *(WideBlock(after, after, 1) for _ in range(BLOCKS - 1)))
