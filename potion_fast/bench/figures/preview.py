"""The picture of a preview: clean images, poisoned images and their difference."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from ...user.drawing import DPI, MUTED, TRIGGERED, short, show
from ...utils.atomic_files import written_whole
from .pictures import TITLE

if TYPE_CHECKING:
    from ..runs.scenario import Scenario

SIDE, MARGIN, NARROWEST = 1.45, 1.35, 5.0  # inches: of an image, left of the first, and of a title


def image_rows(
    scenario: Scenario,
    places: list[int],  # [B] of S_m
    clean: Tensor,  # [B, C, H, W] normalised
    poisoned: Tensor,  # [B, C, H, W]
) -> dict[str, Tensor]:  # of [B, C, H, W] pixels in [0, 1]
    """The content of each row, by its name: the images before and after, and how they differ, where they do.

    Args:
        scenario: data that are poisoned.
        places: of the images in S_m.
        clean: the images.
        poisoned: the same with their poison.
    """
    before, after = scenario.pixels(clean), scenario.pixels(poisoned)
    if scenario.table is None:
        rows = {"clean,\nits own label": before, "poisoned,\nthe label given": after}
        return {**rows, **_magnified("difference", after - before)}
    std = torch.tensor(scenario.splits.std).view(-1, 1, 1)
    changes = _magnified("perturbation", scenario.table.values[places] * std)
    return {"clean,\nits own label": before, **changes, "their sum,\nthe label given": after}


def _magnified(name: str, changes: Tensor) -> dict[str, Tensor]:
    """The largest change of all images is drawn black or white; empty where there is none."""
    largest = changes.abs().max().item()
    return {f"{name} × {1 / (2 * largest):.2g}\n(grey: none)": changes / (2 * largest) + 0.5} if largest else {}


def draw_rows(figure: Figure | SubFigure, rows: dict[str, Tensor]) -> dict[str, list[Axes]]:
    """Images [B, C, H, W] of pixels side by side, each row with its name before it; their axes."""
    columns = len(next(iter(rows.values())))
    grid = dict(zip(rows, figure.subplots(len(rows), columns, squeeze=False).tolist(), strict=True))
    for name, line in grid.items():
        for axes, image in zip(line, rows[name], strict=True):
            show(axes, image)
        line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
    return grid


def draw_preview(
    path: str | os.PathLike[str],
    scenario: Scenario,
    indices: list[int],  # [B]
    rows: dict[str, Tensor],
    labels: Tensor,  # [B]
    given: Tensor,  # [B]
) -> None:
    """Draw poisoned training images with the labels they had and have; a PNG.

    Args:
        path: of the PNG.
        scenario: data that are poisoned.
        indices: of the images.
        rows: see `image_rows`.
        labels: clean.
        given: as they are trained on.
    """
    names = scenario.splits.classes
    size = (max(NARROWEST, MARGIN + SIDE * len(indices)), 0.6 + 1.15 * SIDE * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    lines = draw_rows(figure, rows)
    (poisoned,) = (line for name, line in lines.items() if name.endswith("the label given"))
    first, last = list(lines.values())[0], list(lines.values())[-1]
    for column, index in enumerate(indices):
        color = MUTED if labels[column] == given[column] else TRIGGERED
        first[column].set_title(short(names[labels[column]]), fontsize=9, pad=3, parse_math=False)
        poisoned[column].set_title(f"“{short(names[given[column]])}”", fontsize=9, pad=3, color=color, parse_math=False)
        last[column].set_xlabel(f"image {index}", fontsize=8, color=MUTED)
    share = f"{len(scenario.poisoned):,} of {len(scenario.splits.train):,} training images"
    figure.suptitle(f"{scenario.config.poison}: {share}", fontsize=TITLE)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")
