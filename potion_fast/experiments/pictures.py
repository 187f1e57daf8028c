"""Pictures of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..files import written_whole
from ..metrics import Metric, PoisonEvaluation
from ..search import Result
from .scenario import Scenario
from .tradeoff import Point

CLEAN, TRIGGERED, FORGET, MUTED = "#1b7f79", "#c8553d", "#8a8a8a", "#5f5f5f"
ROWS, COLUMNS = 2, 5


def draw_healing(
    path: str | os.PathLike[str],
    scenario: Scenario,
    result: Result,
    before: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    curve: list[Point] | None,
    triggered_before: Tensor,
    after: PoisonEvaluation,
) -> None:
    """The search on the left, triggered test images with the prediction before and after on the right; a PNG.

    before            metrics of the poisoned model, as its metrics.json holds them
    metrics           of the healed model
    curve             test accuracies along the search, or None
    triggered_before  [N, C] logits of the poisoned model on the triggered test images
    after             the healed model's evaluation
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    _draw_search(left.subplots(), result, before, metrics, curve)
    _draw_images(right, scenario, triggered_before, after)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _draw_search(
    axes: Axes, result: Result, before: Mapping[str, Any], metrics: Mapping[str, Metric], curve: list[Point] | None
) -> None:
    clean, triggered = metrics["clean_accuracy"].value, metrics["triggered_accuracy"].value
    base_clean, base_triggered = before["clean_accuracy"]["value"], before["triggered_accuracy"]["value"]
    stop = result.trace[-1].dampened if result.trace else 0
    steps = [(0, result.initial_accuracy), *((step.dampened, step.accuracy) for step in result.trace)]
    points = [(point.dampened, point.clean_accuracy, point.triggered_accuracy) for point in curve or ()]
    points = sorted({(0, base_clean, base_triggered), *points, (stop, clean, triggered)})

    x = [p[0] for p in points]
    style = "-" if curve else "--"
    axes.plot(x, [100 * p[1] for p in points], style, color=CLEAN, marker="o", ms=3.5, lw=2, label="clean test images")
    axes.plot(
        x, [100 * p[2] for p in points], style, color=TRIGGERED, marker="o", ms=3.5, lw=2, label="triggered test images"
    )
    axes.step(
        [s[0] for s in steps], [100 * s[1] for s in steps], where="post", color=FORGET, lw=1.2, ls=":",
        label="found samples still given the poison's label",
    )  # fmt: skip
    if stop:
        axes.axvline(stop, color=MUTED, lw=1)
        axes.annotate(
            f"the search stops\n{stop:,} weights dampened", (stop, 50), xytext=(6, 0), textcoords="offset points",
            fontsize=9, color=MUTED, va="center", ha="left",
        )  # fmt: skip
    smallest = min((p[0] for p in points if p[0]), default=1)
    axes.set_xscale("symlog", linthresh=smallest)
    axes.set_xlim(left=0)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("weights dampened")
    axes.set_ylabel("accuracy with clean labels, %")
    axes.set_title(
        f"triggered {base_triggered:.1%} → {triggered:.1%},  clean {base_clean:.1%} → {clean:.1%}", fontsize=11
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="lower left", fontsize=8.5, framealpha=0.9)


def _draw_images(figure: Any, scenario: Scenario, before: Tensor, after: PoisonEvaluation) -> None:
    """The first triggered test images that the poison had redirected, as they come: none is picked for its outcome."""
    target, names = scenario.poison.target, scenario.splits.classes
    redirected = (before.argmax(1) == target) & (after.labels != target)
    chosen = redirected.nonzero().squeeze(1)[: ROWS * COLUMNS].tolist()
    images, labels = scenario.triggered_test_images(chosen)
    predictions = after.triggered_logits.argmax(1)[torch.tensor(chosen, dtype=torch.int64)]
    figure.suptitle(f"triggered images the poison made “{names[target]}”, and what the healed model says", fontsize=11)
    for place, axes in enumerate(figure.subplots(ROWS, COLUMNS).flat):
        axes.set_axis_off()
        if place >= len(chosen):
            continue
        picture = images[place].permute(1, 2, 0).numpy()
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        healed = bool(predictions[place] == labels[place])
        axes.set_title(
            f"{names[target]} → {names[int(predictions[place])]}", fontsize=10, color=CLEAN if healed else TRIGGERED
        )
