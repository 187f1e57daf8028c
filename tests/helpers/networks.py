"""Networks shared by the tests and benchmarks of a pass, in addition to `potion_fast.bench.models`."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))); where the shape changes, a 1x1 convolution carries x across."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, before, H, W] -> [B, after, H / stride, W / stride]
        active = F.relu(self.norm1(x))
        across = x if self.shortcut is None else self.shortcut(active)
        return across + self.conv2(F.relu(self.norm2(self.conv1(active))))


class WideResNet(nn.Module):
    """WRN-depth-widen of *Wide Residual Networks* (Zagoruyko and Komodakis), without dropout.

    Pre-activation, three groups of (depth - 4) / 6 blocks; 28-10 has 36,479,194 parameters at ten classes.
    """

    def __init__(self, depth: int = 28, widen: int = 10, num_classes: int = 10) -> None:
        super().__init__()
        assert (depth - 4) % 6 == 0, "a wide residual network has 6n + 4 layers"
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for group, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            for block in range((depth - 4) // 6):
                stride = 2 if group > 0 and block == 0 else 1
                self.blocks.append(WideBlock(before if block == 0 else after, after, stride))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes]
        return self.classifier(F.relu(self.norm(self.blocks(self.stem(images)))).mean((2, 3)))


def small_vit() -> nn.Module:
    """A vision transformer for 32x32 images: 64 patches and a class token, width 192, 4 blocks, 3 heads."""
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=4, num_heads=3, num_classes=10)


def with_statistics(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The model in eval mode, after its batch norms have seen `inputs` [B, ...], so that activations are of order 1."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the statistics of these inputs, instead of a moving average
    with torch.no_grad():
        model.train()(inputs)
    return model.eval()


class Twice(nn.Module):
    """Every layer is called twice, and a weight is tied by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = torch.tanh(self.norm(self.conv(x)))
        x = x.mean((2, 3))
        for _ in range(2):
            x = torch.tanh(self.tied(self.linear(x)))
        return x
