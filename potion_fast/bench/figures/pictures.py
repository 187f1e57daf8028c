"""The picture of a healing: the search, and attacked samples before and after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter
from torch import Tensor

from ...search import Result
from ...user.drawing import CLEAN, DPI, FORGET, MUTED, TRIGGERED, short, show
from ...utils.atomic_files import written_whole
from ..attacks import NO_LABEL, Scores
from ..metrics import Evaluation
from .reviews import MOST as EXCERPTS
from .reviews import draw_excerpts

if TYPE_CHECKING:
    from ..runs.scenario import Scenario
    from ..runs.tradeoff import Point

SIZE = (12.0, 5.0)  # inches
ROWS, COLUMNS = 3, 4
TITLE = 11.5  # points


def draw_healing(
    path: str | os.PathLike[str],
    scenario: Scenario,
    result: Result,
    before: Scores,
    attacked_before: Tensor,
    after: Evaluation,
    curve: Sequence[Point] | None = None,
) -> None:
    """Draw the search on the left, attacked images and what the healed model says on the right; a PNG of SIZE · DPI.

    Of Gaussian poison, which sends no image anywhere, the right shows how the statistics of the noise are distributed.

    Args:
        path: of the PNG.
        scenario: data of the models.
        result: of the search.
        before: metrics of the poisoned model.
        attacked_before: of the poisoned model, see `attacked_outputs`.
        after: the healed model's evaluation.
        curve: accuracies along the search, or None.
    """
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=[1.3, 1], wspace=0.06)
    _draw_search(figure.add_subfigure(grid[0]), scenario, result, before, after, curve or ())
    right = figure.add_subfigure(grid[1])
    noise = scenario.poison.noise_statistics(after)
    if noise is not None:
        _draw_statistics(right, attacked_before, noise[0], scenario.sample)
    else:
        _draw_attacked(right, scenario, attacked_before, after.attacked_logits)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def _draw_search(
    figure: SubFigure,
    scenario: Scenario,
    result: Result,
    before: Scores,
    after: Evaluation,
    curve: Sequence[Point],
) -> None:
    """Scores against the number of weights dampened; a dashed line joins what was measured only at its ends."""
    captions, (attacked, reached) = scenario.poison.captions.of(scenario.sample), scenario.poison.score_names
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
    lines = [(CLEAN, captions.clean)] + ([(TRIGGERED, captions.attacked)] if captions.attacked else [])
    for column, (color, name) in enumerate(lines):
        y = [100 * points[dampened][column] for dampened in x]
        axes.plot(x, y, color=color, label=f"{name} given their own class", **line)
    counts, shares = zip(*search, strict=True)
    label = f"found samples still given {captions.found}"
    axes.step(counts, [100 * y for y in shares], ":", where="post", color=FORGET, lw=1.6, label=label)

    axes.set_xscale("symlog", linthresh=min((count for count in (*x, *counts) if count), default=1), linscale=0.5)
    axes.set_xlim(0, 1.15 * max(1, *x))
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("weights dampened")
    axes.set_ylabel(f"share of {scenario.sample}s, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    _mark_end(axes, result.reason, stop)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    parts = [f"{captions.clean_right}: {before['clean_accuracy']:.1%} → {healed['clean_accuracy']:.1%}"]
    if captions.right:
        parts.insert(0, f"{captions.right}: {before[attacked]:.1%} → {healed[attacked]:.1%}")
    if captions.score:
        parts.insert(0, f"{captions.score}: {before[reached]:.2f} → {healed[reached]:.2f}")
    figure.suptitle(";  ".join(parts), fontsize=TITLE)


def _mark_end(axes: Axes, reason: str, stop: int) -> None:
    """A line where the search ended, and the reason above the axes, where no curve runs."""
    axes.axvline(stop, color=MUTED, lw=1)
    share = axes.transLimits.transform(axes.transScale.transform((stop, 0)))[0]  # of the axes' width
    side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
    text = f"{reason}: {stop:,} weights dampened" if stop else f"{reason}: no weight dampened"
    axes.set_title(text, fontsize=9.5, color=MUTED, x=share, ha=side, pad=6)


def _draw_attacked(figure: SubFigure, scenario: Scenario, before: Tensor, after: Tensor) -> None:
    """Attacked samples that the poison had redirected, evenly spaced: none is picked for its outcome."""
    names, captions = scenario.splits.classes, scenario.poison.captions.of(scenario.sample)
    excerpts = scenario.poison.shows_excerpts
    labels, wanted = scenario.attacked_labels()  # [M], [M]
    predicted = before.argmax(1)
    reached = ((predicted == wanted) | (wanted == NO_LABEL)) & (labels != predicted)
    candidates = (reached & (labels != wanted)).nonzero().squeeze(1)  # [R], of M
    most = EXCERPTS if excerpts else ROWS * COLUMNS
    places = torch.linspace(0, len(candidates) - 1, min(most, len(candidates))).long()
    chosen = candidates[places].tolist()
    target = short(names[int(wanted[0])].strip())  # of a trigger or a targeted attack: the same for all
    if not chosen:
        text = captions.none.format(target=target)
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=TITLE, color=MUTED, parse_math=False)
        return
    predictions = after.argmax(1)[chosen]
    if excerpts:
        draw_excerpts(figure, scenario, chosen, labels[chosen], predictions)
        figure.suptitle(captions.shown.format(target=target), fontsize=TITLE, parse_math=False)
        return
    images = scenario.attacked_images(chosen)
    few = len(chosen) <= COLUMNS  # targets are few: they may be larger
    grid = list(figure.subplots(*((1, len(chosen)) if few else (ROWS, COLUMNS)), squeeze=False).flat)
    for axes in grid[len(chosen) :]:
        axes.remove()
    for axes, image, label, prediction in zip(grid, images, labels[chosen], predictions.tolist(), strict=False):
        show(axes, image)
        mark, color = ("✓", CLEAN) if prediction == label else ("✗", TRIGGERED)
        axes.set_title(f"{mark} {short(names[prediction])}", fontsize=9, color=color, pad=3, parse_math=False)
    title = captions.shown.format(target=target)
    figure.suptitle(title, fontsize=TITLE, parse_math=False)  # class names are folders: a “$” is no mathematics


def _draw_statistics(
    figure: SubFigure,
    before: Tensor,  # [P]
    after: Tensor,  # [P]
    sample: str,
) -> None:
    """I of the poisoned samples before and after, and the density that it has for noise that was never seen."""
    axes = figure.subplots()
    reach = max(4.0, float(torch.cat([before, after]).abs().max()))
    bins = min(40, max(10, int(2 * len(before) ** 0.5)))
    style: dict[str, Any] = {"bins": np.linspace(-reach, reach, bins + 1), "density": True}
    axes.hist(before.numpy(), color=TRIGGERED, histtype="stepfilled", alpha=0.45, label="poisoned", **style)
    axes.hist(after.numpy(), color=CLEAN, histtype="step", lw=2, label="healed", **style)
    grid = np.linspace(-reach, reach, 401)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(grid, density, color=MUTED, lw=1.6, ls="--", label="noise never seen: N(0, 1)")
    axes.set_xlabel(f"I of a poisoned sample: its noise along the gradient at its {sample}")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.suptitle("what the gradients know of the noise", fontsize=TITLE)
