"""The matrix as a picture: colour is what is removed, the texts are what is removed and the damage."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from ....user.drawing import LARGE, SMALL
from ...figures.style import canvas
from ..methods import attack_label
from ..picture import Picture
from .matrix import TITLE, Matrix, in_cell

NAME = "pawelczyk-heatmap"
COLORS = ("#f4f8f7", "#8cc4bf", "#1b7f79", "#0a3532")  # from light to dark, so that it reads without colours
UNDER = "#ecc9bf"  # below 0: the attack's effect grew
LINE, HEAD = 0.52, 1.75  # inches of a method's line, and of all the rest
LONGEST, HEADS = 10, 70  # letters in a line above a column, and points of all of them together


def heatmap(matrix: Matrix) -> Picture:
    """Methods from top to bottom, attacks from left to right; cells without a value are hatched and say why."""
    title, name = (
        f"{TITLE}: poison removed and damage, {matrix.where}",
        matrix.name.replace("pawelczyk-matrix", NAME, 1),
    )
    measured = any(cell.removed is not None for cell in matrix.cells.values())
    if not measured:
        return Picture(name, title, missing="no row says how much of the poison is removed")
    figure, grid = canvas(1, 1, HEAD + LINE * len(matrix.methods))
    axes = grid[0, 0]
    colors = LinearSegmentedColormap.from_list("removed", COLORS).with_extremes(under=UNDER)
    norm = Normalize(0, 100)
    values = np.array(
        [[_removed(matrix, method, attack) for attack in matrix.attacks] for method in matrix.methods]
    )  # [methods, attacks]
    image = axes.imshow(values, cmap=colors, norm=norm, aspect="auto")
    for place, line in np.ndenumerate(values):
        _cell(axes, matrix, place, line, colors, norm)
    _axes(axes, matrix)
    bar = figure.colorbar(image, ax=axes, extend="both", pad=0.12, aspect=30)
    bar.set_label("poison removed, %", fontsize=LARGE)
    bar.ax.tick_params(labelsize=SMALL)
    caption = (
        "Each cell: poison removed in %, and below it the damage in points of clean accuracy. Right: gradient steps, "
        "in % of the training's. Hatched: no value, and why. The table has the spread and what † means."
    )
    return Picture(name, title, caption, figure)


def _removed(matrix: Matrix, method: str, attack: str) -> float:
    removed = matrix.cells[method, attack].removed
    return float("nan") if removed is None else removed.mean


def _cell(axes: Axes, matrix: Matrix, place: tuple[int, ...], value: float, colors: Colormap, norm: Normalize) -> None:
    line, column = place
    ink = "#222222"
    if np.isnan(value):
        box = Rectangle((column - 0.5, line - 0.5), 1, 1, facecolor="white", edgecolor="#bbbbbb", hatch="///", lw=0)
        axes.add_patch(box)
    else:
        red, green, blue = colors(norm(value))[:3]
        ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else ink
    text = in_cell(matrix.cells[matrix.methods[line], matrix.attacks[column]])
    back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if np.isnan(value) else None
    size = SMALL - 3 if np.isnan(value) else SMALL - 1
    axes.text(column, line, text, ha="center", va="center", color=ink, fontsize=size, linespacing=1.05, bbox=back)


def _axes(axes: Axes, matrix: Matrix) -> None:
    names = ["\n".join(wrap(attack_label(attack), LONGEST, break_long_words=False)) for attack in matrix.attacks]
    axes.set_xticks(range(len(names)), names, fontsize=min(SMALL, HEADS / len(names)))
    axes.set_yticks(range(len(matrix.methods)), matrix.methods, fontsize=SMALL)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(matrix.methods) - 1), minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0, top=False)
    edge = axes.get_yaxis_transform()
    for line, method in enumerate(matrix.methods):
        axes.text(1.015, line, matrix.compute_label(method), transform=edge, va="center", fontsize=SMALL)
    axes.text(1.015, -0.62, "compute,\n% of training", transform=edge, va="bottom", fontsize=SMALL)
