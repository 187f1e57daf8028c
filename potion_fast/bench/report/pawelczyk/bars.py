"""Figures 2a and 3 of Pawelczyk et al.: what is left of a poison and test accuracy, a bar per method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ....user.drawing import CLEAN, LARGE, MUTED, SMALL, TRIGGERED
from ...figures.style import canvas, legend
from ...sweep.rows import UNTOUCHED, Row
from ..averages import average
from ..papers import PERTURBATIONS
from ..picture import Picture
from .scope import Group, groups, largest, size_label
from .values import Measure, apart, clean_percent, mean_of, score, seeds_note, word_note

HEAD, LINE = 2.2, 0.42  # inches of all but the bars, and of a bar
BEFORE, IDEAL, RETRAINED = "no unlearning", "ideal: the FPR", "retrained without the poison"
STYLES = {BEFORE: "-", IDEAL: ":", RETRAINED: "--"}


@dataclass(frozen=True)
class BarFigureSpec:
    """A figure of bars.

    Attributes:
        name: of its files.
        number: in the paper.
        score: that the left bars show.
        axis: its label.
        least: where that axis ends at least, in percent.
        ideal: of the score, in percent; None: what the retrained model has.
    """

    name: str
    number: str
    score: str
    axis: str
    least: float
    ideal: float | None = None


FIGURES = {
    "gaussian": BarFigureSpec("pawelczyk-figure02a", "2a", "tpr", "TPR at FPR 0.01, %", 2.0, 1.0),
    "targeted": BarFigureSpec(
        "pawelczyk-figure03", "3", "target_success", "targets given the intended label, %", 100.0
    ),
}


def bar_pictures(rows: Sequence[Row]) -> list[Picture]:
    """A picture per kind and per attack, data and model."""
    pictures = []
    for kind, spec in FIGURES.items():
        title = f"Figure {spec.number}: {PERTURBATIONS[kind]}, by method"
        missing = Picture(spec.name, title, missing=f"the sweep has no row of a {PERTURBATIONS[kind]}")
        pictures += [_picture(group, spec, title) for group in groups(rows, kind)] or [missing]
    return pictures


def _picture(group: Group, spec: BarFigureSpec, title: str) -> Picture:
    title = title.replace("2a", "2b") if group.of_text else title
    name, title = group.named(spec.name), f"{title}; {group.where}"
    selected = group.of_size(group.size)
    lines = [
        (text, kept)
        for text, _, of_method in apart([row for row in selected if row.method != UNTOUCHED])
        if average(kept := largest(of_method), score(spec.score)) is not None
    ]
    if not lines:
        return Picture(name, title, missing=f"no row of a method has {spec.axis.removesuffix(', %')}")
    figure, grid = canvas(1, 2, HEAD + LINE * len(lines), sharey=True)
    left, right = grid[0]
    shown = _panel(left, lines, score(spec.score, scale=100), TRIGGERED, _references(selected, spec), spec.least)
    shown |= _panel(right, lines, clean_percent(), CLEAN, _accuracies(selected), 50.0)
    left.set_yticks(range(len(lines)), [text for text, _ in lines], fontsize=SMALL)
    left.invert_yaxis()
    left.set_xlabel(spec.axis, fontsize=LARGE)
    right.set_xlabel(f"test {group.sample}s right, %", fontsize=LARGE)
    legend(figure, shown, 3)
    caption = (
        f"{size_label(selected)} poisoned, each method at its largest budget. {seeds_note(selected)}, drawn as thin "
        "lines. Ideally the left bars end at the ideal's line and the right ones at that of the retrained model."
    )
    if note := word_note(selected):
        caption += f" {note}"
    return Picture(name, title, caption, figure)


def _references(rows: Sequence[Row], spec: BarFigureSpec) -> dict[str, float | None]:
    """What the score was before, and what it should be."""
    references = {BEFORE: mean_of(rows, score(spec.score, "before", 100))}
    if spec.ideal is not None:
        return {**references, IDEAL: spec.ideal}
    return {**references, RETRAINED: mean_of(rows, score(spec.score, "reference", 100))}


def _accuracies(rows: Sequence[Row]) -> dict[str, float | None]:
    before, reference = mean_of(rows, clean_percent("before")), mean_of(rows, clean_percent("reference"))
    return {BEFORE: before, RETRAINED: reference}


def _panel(
    axes: Axes,
    lines: Sequence[tuple[str, Sequence[Row]]],
    measure: Measure,
    color: str,
    references: dict[str, float | None],
    least: float,
) -> dict[str, Line2D]:
    """Means as bars with their numbers, the spread over the seeds as thin lines, references as upright ones.

    Returns what the legend shows of these.
    """
    edge, ends = axes.get_yaxis_transform(), [least]
    for place, (_, rows) in enumerate(lines):
        averaged = average(rows, measure)
        axes.text(
            1.02,
            place,
            "–" if averaged is None else f"{averaged.mean:.1f}",
            transform=edge,
            va="center",
            fontsize=SMALL,
        )
        if averaged is None:
            continue
        spread = averaged.over_seeds or 0.0
        axes.barh(place, averaged.mean, height=0.62, color=color, alpha=0.85)
        axes.plot([averaged.mean - spread, averaged.mean + spread], [place, place], color="#222222", lw=1.2)
        ends.append(averaged.mean + spread)
    known = {text: value for text, value in references.items() if value is not None}
    for text, value in known.items():
        axes.axvline(value, color=color, ls=STYLES[text], lw=1.8, clip_on=False)
    axes.set_xlim(0, 1.03 * max(*ends, *known.values()))
    axes.grid(False, axis="y")
    axes.grid(axis="x", alpha=0.25)
    return {text: Line2D([], [], color=MUTED, ls=STYLES[text], lw=1.8) for text in known}
