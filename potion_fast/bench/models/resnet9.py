"""ResNet-9 of the Potion and Corrective Machine Unlearning experiments: a DAWNBench-style network for small images."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from ...errors import ModelError
from .initialisation import zero_biases

SMALLEST = 11  # pixels; see ResNet9


class ResNet9(nn.Module):
    """Convolutions with bias, each followed by batch normalisation and CELU(0.075); 2,276,224 parameters at width 64.

    Images must be at least 11 x 11: the stride and the pooling leave ceil(H / 2) // 2 pixels, and the last, unpadded
    3x3 convolution needs 3. Any larger size works, since the last pooling is global; 32 x 32 is what it was made for.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        width: channels of the first convolution; all other channel counts scale with it.
    """

    splits = {  # k -> the modules with the last k layers of weights
        2: ("features.6", "classifier"),
        4: ("features.5", "features.6", "classifier"),
    }

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(in_channels, width, 3, padding=1),
            conv_block(width, 2 * width, 5, padding=2, stride=2),
            Residual(2 * width),
            conv_block(2 * width, 4 * width, 3, padding=1),
            nn.MaxPool2d(2),
            Residual(4 * width),
            conv_block(4 * width, 2 * width, 3, padding=0),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * width, num_classes, bias=False)
        zero_biases(self)  # weights keep PyTorch's default, Kaiming uniform with a = sqrt(5)

    @override
    def forward(
        self,
        images: torch.Tensor,  # [B, C, H, W]
    ) -> torch.Tensor:  # [B, num_classes]
        if min(images.shape[-2:]) < SMALLEST:
            raise ModelError(
                f"ResNet-9 needs images of at least {SMALLEST}x{SMALLEST}, got {images.shape[-2]}x{images.shape[-1]}; "
                "use small_cnn for smaller ones"
            )
        return self.classifier(self.features(images))


class Residual(nn.Module):
    """x + block(block(x)), at the same number of channels and pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            conv_block(channels, channels, 3, padding=1),
            conv_block(channels, channels, 3, padding=1),
        )

    @override
    def forward(
        self,
        x: torch.Tensor,  # [B, channels, H, W]
    ) -> torch.Tensor:  # [B, channels, H, W]
        return x + self.blocks(x)


def conv_block(in_channels: int, out_channels: int, kernel: int, *, padding: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, CELU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding),
        nn.BatchNorm2d(out_channels),
        nn.CELU(alpha=0.075),
    )
