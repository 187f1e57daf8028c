"""Figures 4 and 5 of Pawelczyk et al."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import mean, pstdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...user.drawing import CLEAN, LARGE, TRIGGERED
from ...utils.atomic_files import written_whole
from ..figures.style import ORDER, canvas, ideal, legend, marked
from .descents import KINDS, DescentStep

SHIFT_LOOKS = {  # kind -> its label, colour and mark
    "indiscriminate": ("indiscriminate poison", ORDER[3], "o"),
    "targeted": ("targeted poison", TRIGGERED, "s"),
    "random": ("clean samples, drawn at random", CLEAN, "D"),
}
COSINE_LOOKS = {"poison": ("unlearning poison", TRIGGERED), "random": ("unlearning clean samples", CLEAN)}
PANELS = {
    "batch_cosine": "gradients of mini-batches of clean samples",
    "full_cosine": "gradients of all clean samples, along the same way",
}


def draw_shift(path: str | os.PathLike[str], content: dict[str, Any], seeds: int) -> None:
    """Figure 4: the model shift against the share of samples that are left out, from `shift_run`'s result; a PNG."""
    figure, grid = canvas(1, 1, 6.0)
    axes, lines = grid[0, 0], {}
    for kind, points in content["curves"].items():
        label, color, mark = SHIFT_LOOKS[kind]
        x, y = [0, *(point["share"] for point in points)], [0.0, *(point["mean"] for point in points)]
        spread = [None, *(point["std"] for point in points)]
        lines[label] = marked(axes, x, y, color, mark, spread=spread)
    axes.set_xlim(0, 102)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the samples that are left out, %", fontsize=LARGE)
    axes.set_ylabel(r"model shift $\|\theta(S) - \theta(S \setminus S^{(\beta)})\|_1$", fontsize=LARGE)
    size = f"{content['poisons']:,} of {content['samples']:,} samples, {content['features']:,} features"
    axes.set_title(f"logistic regression: {size}; mean and deviation over {seeds} seeds", fontsize=LARGE)
    legend(figure, lines, columns=3)
    _save(figure, path)


def draw_cosine(path: str | os.PathLike[str], rows: Sequence[DescentStep]) -> None:
    """Figure 5: the cosine along the descent, of mini-batches and of all clean samples; a PNG."""
    figure, grid = canvas(1, 2, 5.4, sharey=True)
    lines = {}
    for axes, (name, title) in zip(grid[0], PANELS.items(), strict=True):
        for kind in KINDS:
            label, color = COSINE_LOOKS[kind]
            lines[label] = _draw_descents(axes, [row for row in rows if row.kind == kind], name, color)
        axes.set_title(title, fontsize=LARGE)
        axes.set_xlabel("step of the descent", fontsize=LARGE)
        ideal(axes, 0.0)
    grid[0, 0].set_ylabel("cosine with the desired shift", fontsize=LARGE)
    legend(figure, lines)
    _save(figure, path)


def _draw_descents(axes: Axes, rows: Sequence[DescentStep], name: str, color: str) -> Line2D:
    """The mean over the seeds by step, and a band of one standard deviation around it."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.step, []).append(getattr(row, name))
    steps = sorted(values)
    middle, width = np.array([(mean(values[step]), pstdev(values[step])) for step in steps]).T
    axes.fill_between(steps, middle - width, middle + width, color=color, alpha=0.2, lw=0)
    return axes.plot(steps, middle, color=color, lw=2)[0]


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")
