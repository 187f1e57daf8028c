"""A vision transformer for small images."""

from __future__ import annotations

from torch import nn

from ...errors import ModelError

PATCH = 4  # pixels: 64 tokens of a CIFAR image
HEAD = 32  # width of an attention head


def vit(num_classes: int, in_channels: int = 3, *, width: int = 192, depth: int = 6) -> nn.Module:
    """VisionTransformer of timm on patches of 4 x 4 pixels, for images of 32 x 32; other multiples of 4 work too.

    It has 2,693,578 parameters at three channels, ten classes and these defaults.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        width: of a token, a multiple of 32: each head of the attention has 32.
        depth: blocks.

    Returns:
        The model: [B, in_channels, H, W] -> [B, num_classes].

    Raises:
        ModelError: another width.
    """
    if width % HEAD:
        raise ModelError(f"the model 'vit' needs a width that is a multiple of {HEAD}, got {width}")
    from timm.models.vision_transformer import VisionTransformer  # takes seconds: only when needed

    return VisionTransformer(
        img_size=32,
        patch_size=PATCH,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD,
        dynamic_img_size=True,
    )
