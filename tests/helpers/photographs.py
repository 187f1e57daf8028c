"""Photographs that tests write: smooth structure with fine noise, as JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from potion_fast.user.jpeg_source import JpegSource, Preprocessing

VIT = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth structure with fine noise: resizing it badly shows."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.normal(0, 25, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", **options)
    return path


def source(folder: Path, preprocessing: Preprocessing) -> JpegSource:
    names = sorted(path.name for path in folder.iterdir())
    return JpegSource(folder, names, torch.zeros(len(names)), preprocessing)
