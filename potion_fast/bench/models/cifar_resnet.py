"""ResNet-18 for small images."""

from __future__ import annotations

from torch import nn

STAGES = 4


def resnet18(num_classes: int, in_channels: int = 3, *, width: int = 64) -> nn.Module:
    """ResNet-18 of torchvision with the stem for CIFAR: a 3x3 convolution without stride, and no max-pooling.

    It has 11,173,962 parameters at three channels, ten classes and torchvision's width, 64.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        width: channels of the first stage; those of the others are 2, 4 and 8 times as many.

    Returns:
        The model: [B, in_channels, H, W] -> [B, num_classes].
    """
    from torchvision.models import resnet  # takes seconds: only when needed

    model = resnet.resnet18(num_classes=num_classes)
    if width != 64:
        model.bn1 = nn.BatchNorm2d(width)
        for stage in range(STAGES):
            model.inplanes, strided = width * 2 ** max(0, stage - 1), 1 if stage == 0 else 2
            blocks = model._make_layer(resnet.BasicBlock, width * 2**stage, 2, strided)
            for module in blocks.modules():
                if isinstance(module, nn.Conv2d):
                    _initialise(module)
            setattr(model, f"layer{stage + 1}", blocks)
        model.fc = nn.Linear(width * 2 ** (STAGES - 1), num_classes)
    model.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    _initialise(model.conv1)
    model.maxpool = nn.Identity()
    return model


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
