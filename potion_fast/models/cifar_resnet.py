"""ResNet-18 for small images."""

from __future__ import annotations

from torch import nn


def resnet18(num_classes: int, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet-18 with the stem for CIFAR: a 3x3 convolution without stride, and no max-pooling.

    11,173,962 parameters at three channels and ten classes.
    """
    from torchvision.models import resnet  # takes seconds: only when needed

    model: nn.Module = resnet.resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    model.maxpool = nn.Identity()
    return model
