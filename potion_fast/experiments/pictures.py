"""Pictures of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter
from torch import Tensor

from ..files import written_whole
from ..metrics import PoisonEvaluation, SwapEvaluation
from ..search import Result
from .earlier import Accuracies
from .scenario import Scenario
from .tradeoff import Point

CLEAN, TRIGGERED, FORGET, MUTED = "#1b7f79", "#c8553d", "#8a8a8a", "#5f5f5f"
SIZE, DPI = (12.0, 5.0), 150  # inches, and pixels per inch
ROWS, COLUMNS = 3, 4
LONGEST = 13  # characters of a class name that stand side by side above the images
TITLE = 11.5  # points


def draw_healing(
    path: str | os.PathLike[str],
    scenario: Scenario,
    result: Result,
    before: Accuracies,
    attacked_before: Tensor,
    after: PoisonEvaluation | SwapEvaluation,
    curve: Sequence[Point] | None = None,
) -> None:
    """The search on the left, attacked images and what the healed model says on the right; a PNG of SIZE · DPI.

    before           of the poisoned model
    attacked_before  [M, C] logits of the poisoned model on the images of `Scenario.attacked_loader`
    after            the healed model's evaluation
    curve            accuracies along the search, or None
    """
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=[1.3, 1], wspace=0.06)
    _draw_search(figure.add_subfigure(grid[0]), scenario, result, before, after, curve or ())
    _draw_images(figure.add_subfigure(grid[1]), scenario, attacked_before, after.attacked_logits)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def _draw_search(
    figure: SubFigure,
    scenario: Scenario,
    result: Result,
    before: Accuracies,
    after: PoisonEvaluation | SwapEvaluation,
    curve: Sequence[Point],
) -> None:
    """Accuracies against the number of weights dampened; a dashed line joins what was measured only at its ends."""
    attacked, swapped = scenario.poison.scores[0], scenario.poison.target is None
    kind, images = ("mislabelled", "") if swapped else ("triggered", " images")  # the longer word leaves no room
    healed = {name: metric.value for name, metric in after.metrics.items()}
    stop = result.kept.dampened if result.kept else 0
    points = {0: (before["clean_accuracy"], before[attacked])}
    points |= {point.dampened: (point.clean_accuracy, point.triggered_accuracy) for point in curve}
    if stop:
        points[stop] = (healed["clean_accuracy"], healed[attacked])
    x = sorted(points)
    tried = sorted(result.trace, key=lambda step: step.dampened)  # not every strategy goes in this order
    search = [(0, result.initial_accuracy), *((step.dampened, step.accuracy) for step in tried)]

    axes = figure.subplots()
    line: dict[str, Any] = {"ls": "-" if curve else "--", "lw": 2, "marker": "o", "ms": 4, "clip_on": False}
    for column, (color, name) in enumerate(((CLEAN, "clean test"), (TRIGGERED, kind if swapped else f"{kind} test"))):
        y = [100 * points[dampened][column] for dampened in x]
        axes.plot(x, y, color=color, label=f"{name} images given their own class", **line)
    counts, shares = zip(*search, strict=True)
    label = "found samples still given the poison's label"
    axes.step(counts, [100 * y for y in shares], ":", where="post", color=FORGET, lw=1.6, label=label)

    axes.set_xscale("symlog", linthresh=min((count for count in (*x, *counts) if count), default=1), linscale=0.5)
    axes.set_xlim(0, 1.15 * max(1, *x))
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("weights dampened")
    axes.set_ylabel("share of images, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    _mark_end(axes, result.reason, stop)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(
        f"{kind}{images} right: {before[attacked]:.1%} → {healed[attacked]:.1%};  "
        f"clean{images} right: {before['clean_accuracy']:.1%} → {healed['clean_accuracy']:.1%}",
        fontsize=TITLE,
    )


def _mark_end(axes: Axes, reason: str, stop: int) -> None:
    """A line where the search ended, and the reason above the axes, where no curve runs."""
    axes.axvline(stop, color=MUTED, lw=1)
    share = axes.transLimits.transform(axes.transScale.transform((stop, 0)))[0]  # of the axes' width
    side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
    text = f"{reason}: {stop:,} weights dampened" if stop else f"{reason}: no weight dampened"
    axes.set_title(text, fontsize=9.5, color=MUTED, x=share, ha=side, pad=6)


def _draw_images(figure: SubFigure, scenario: Scenario, before: Tensor, after: Tensor) -> None:
    """Attacked images that the poison had redirected, evenly spaced: none is picked for its outcome."""
    names = scenario.splits.classes
    labels, wanted = scenario.attacked_labels()  # [M], [M]
    candidates = ((before.argmax(1) == wanted) & (labels != wanted)).nonzero().squeeze(1)  # [R], of M
    places = torch.linspace(0, len(candidates) - 1, min(ROWS * COLUMNS, len(candidates))).long()
    chosen = candidates[places].tolist()
    if scenario.poison.target is not None:
        target = short(names[scenario.poison.target])
        title = f"the poisoned model says “{target}”; the healed one:"
        text = f"the poisoned model gives no triggered test image\nof another class “{target}”"
    else:
        title = "the poisoned model repeats the label; the healed one:"
        text = "the poisoned model gives no mislabelled training image\nits wrong label"
    if not chosen:
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=TITLE, color=MUTED, parse_math=False)
        return
    images, predictions = scenario.attacked_images(chosen), after.argmax(1)[chosen]
    grid = list(figure.subplots(ROWS, COLUMNS).flat)
    for axes in grid[len(chosen) :]:
        axes.remove()
    for axes, image, label, prediction in zip(grid, images, labels[chosen], predictions.tolist(), strict=False):
        show(axes, image)
        mark, color = ("✓", CLEAN) if prediction == label else ("✗", TRIGGERED)
        axes.set_title(f"{mark} {short(names[prediction])}", fontsize=9, color=color, pad=3, parse_math=False)
    figure.suptitle(title, fontsize=TITLE, parse_math=False)  # class names are folders: a “$” is no mathematics


def show(axes: Axes, image: Tensor) -> None:
    """An image [C, H, W] of pixels in [0, 1]."""
    axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=FORGET, linewidth=0.5)  # a white patch in the corner is not the page


def short(name: str) -> str:
    """A class name that fits above an image."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
