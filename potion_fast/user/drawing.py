"""Colours and sizes that pictures share, and images with their labels in them."""

from __future__ import annotations

from matplotlib.axes import Axes
from torch import Tensor

CLEAN, TRIGGERED, FORGET, MUTED = "#1b7f79", "#c8553d", "#8a8a8a", "#5f5f5f"
WIDTH, DPI = 12.0, 150  # inches, and pixels per inch
LARGE, SMALL = 14, 12  # points: a README shows a picture at less than half of its pixels
LONGEST = 13  # characters of a class name that stand side by side above the images


def show(axes: Axes, image: Tensor) -> None:
    """Draw an image [C, H, W] of pixels in [0, 1]."""
    shown = image[:3] if len(image) >= 3 else image[:1]  # of many channels the first three, as colours
    axes.imshow(shown.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=FORGET, linewidth=0.5)  # a white patch in the corner is not the page


def short(name: str, longest: int = LONGEST) -> str:
    """A class name that fits above an image."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
