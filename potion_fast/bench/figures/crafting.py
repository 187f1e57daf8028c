"""The picture of a crafting: its losses, and some images before and after."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from ...user.drawing import CLEAN, DPI, FORGET, MUTED, short
from ...utils.atomic_files import written_whole
from ..attacks.crafting.crafted import Crafted
from .pictures import TITLE
from .preview import draw_rows, image_rows

if TYPE_CHECKING:
    from ..runs.scenario import Scenario

SIZE = (11.0, 4.6)  # inches
IMAGES = 5


def draw_crafting(path: str | os.PathLike[str], scenario: Scenario, crafted: Crafted) -> None:
    """Draw losses by step on the left, images of S_m before and after on the right, evenly spaced; a PNG.

    Args:
        path: of the PNG.
        scenario: with the perturbations that were crafted.
        crafted: result of the crafting.
    """
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.3], wspace=0.06)
    _draw_losses(figure.add_subfigure(grid[0]), crafted)
    _draw_images(figure.add_subfigure(grid[1]), scenario)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def _draw_losses(figure: SubFigure, crafted: Crafted) -> None:
    axes = figure.subplots()
    for restart, losses in enumerate(crafted.losses):
        kept = restart == crafted.kept
        style: dict[str, Any] = {"color": CLEAN if kept else FORGET, "lw": 2 if kept else 1, "zorder": 3 if kept else 2}
        axes.plot(range(len(losses)), losses, marker="o" if len(losses) == 1 else None, **style)
    everything = [loss for losses in crafted.losses for loss in losses]
    if min(everything) > 0 and max(everything) > 20 * min(everything):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    count = len(crafted.losses)
    figure.suptitle(
        "what was minimised" + (f"; kept: start {crafted.kept + 1} of {count}" if count > 1 else ""), fontsize=TITLE
    )


def _draw_images(figure: SubFigure, scenario: Scenario) -> None:
    count, names = len(scenario.poisoned), scenario.splits.classes
    places = torch.linspace(0, count - 1, min(IMAGES, count)).long().tolist()
    rows = [scenario.poisoned[place] for place in places]
    clean, labels = scenario.splits.dataset("train").batch(rows)
    poisoned, _ = scenario.train_set(augment=False).batch(rows)
    lines = list(draw_rows(figure, image_rows(scenario, places, clean, poisoned)).values())
    for column, index in enumerate(rows):
        lines[0][column].set_title(short(names[labels[column]]), fontsize=9, pad=3, parse_math=False)
        lines[-1][column].set_xlabel(f"image {index}", fontsize=8, color=MUTED)
    figure.suptitle(_aim(scenario), fontsize=TITLE, parse_math=False)


def _aim(scenario: Scenario) -> str:
    """What the perturbations are for."""
    names = [short(name) for name in scenario.splits.classes]
    return scenario.poison.crafting_aim(scenario.attacked, len(scenario.poisoned), names)
