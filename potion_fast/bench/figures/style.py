"""The look that figures share: sizes, fonts, axes and legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...user.drawing import DPI, MUTED, SMALL, WIDTH

ORDER = ("#1b7f79", "#d9a441", "#c8553d", "#6a5d9c", "#3d3d3d")  # of lines that belong to no method
MARKERS = "osD^v"


def canvas(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of WIDTH · height inches and its axes [rows, columns]."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.tick_params(labelsize=SMALL)
    return figure, grid


def legend(figure: Figure, lines: dict[str, Line2D], columns: int = 6) -> None:
    """Below the axes, in as many columns as fit."""
    place: dict[str, Any] = {"loc": "outside lower center", "fontsize": SMALL, "frameon": False}
    figure.legend(list(lines.values()), list(lines), ncols=min(columns, max(1, len(lines))), **place)


def marked(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    color: str,
    marker: str,
    style: str = "-",
    spread: Sequence[float | None] = (),
) -> Line2D:
    """A line with its marks, and a thin bar per point for its spread."""
    (drawn,) = axes.plot(x, y, color=color, marker=marker, ls=style, lw=2, ms=7, clip_on=False)
    for place, value, width in zip(x, y, spread, strict=False):
        if width:
            axes.plot([place, place], [value - width, value + width], color=color, lw=1.2, alpha=0.45)
    return drawn


def ideal(axes: Axes, value: float) -> None:
    """A dotted line at the value of a model that is healed and unharmed."""
    axes.axhline(value, color=MUTED, lw=1, ls=":")
