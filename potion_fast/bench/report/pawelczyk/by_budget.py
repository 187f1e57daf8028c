"""Figures 8 and 9 of Pawelczyk et al.: a Gaussian poison and test accuracy by budget and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ....user.drawing import LARGE, MUTED
from ...figures.style import canvas, legend
from ...sweep.rows import UNTOUCHED, Row, When
from ..averages import average
from ..picture import Picture, line
from .scope import Group, compute, groups, largest, percent, size_label
from .values import Measure, apart, clean_percent, mean_of, score, seeds_note

MISSING = "the sweep has no row of a Gaussian poison"
PANELS: tuple[tuple[str, Callable[[When], Measure], float | None], ...] = (
    ("GUS", lambda when: score("gus", when), 0.0),
    ("TPR at FPR 0.01, %", lambda when: score("tpr", when, 100), 1.0),
    ("test {sample}s right, %", clean_percent, None),
)
TICKS = 6  # at most where the rows are; else where they are even
TITLES = {
    "pawelczyk-figure08": "Figure 8: Gaussian poison, by budget",
    "pawelczyk-figure09": "Figure 9: Gaussian poison, by its size",
}


def along_pictures(rows: Sequence[Row]) -> list[Picture]:
    """Both figures per attack, data and model."""
    gaussian_groups = groups(rows, "gaussian")
    if not gaussian_groups:
        return [Picture(name, title, missing=MISSING) for name, title in TITLES.items()]
    return [draw(group) for group in gaussian_groups for draw in (_by_budget, _by_size)]


def _by_budget(group: Group) -> Picture:
    """A line per method with several budgets; the others are points at their compute, where that is known."""
    plain = "pawelczyk-figure08"
    name, title = group.named(plain), f"{TITLES[plain]}; {group.where}"
    selected = [row for row in group.of_size(group.size) if row.method != UNTOUCHED and row.scores]
    if len({row.budget for row in selected if row.budget is not None}) < 2:
        return Picture(name, title, missing="the rows of one size of poison have fewer than two budgets")
    most = 200 * max(row.budget for row in selected if row.budget is not None)
    drawn_rows = [row for row in selected if row.budget is not None or (compute(row) or most + 1) <= most]
    left_out = sorted({text for text, _, rows in apart(selected) if not any(row in drawn_rows for row in rows)})
    caption = (
        f"{size_label(selected)} poisoned. {seeds_note(selected)}, drawn as bars. Methods without a budget stand at "
        "their own compute."
    )
    if left_out:
        caption += f" Not drawn, as their compute is not known or far larger: {', '.join(left_out)}."
    return _picture(group, (name, title, caption), drawn_rows, _budget, "budget, % of the training's steps")


def _by_size(group: Group) -> Picture:
    plain = "pawelczyk-figure09"
    figure = TITLES[plain].replace("Figure 9", "Figure 10") if group.of_text else TITLES[plain]
    name, title = group.named(plain), f"{figure}; {group.where}"
    selected = [row for row in group.rows if row.method != UNTOUCHED and row.scores]
    if len({row.poisoned for row in selected}) < 2:
        return Picture(name, title, missing="the sweep has one size of Gaussian poison")
    drawn_rows = [row for _, _, rows in apart(selected) for row in largest(rows)]
    known = all(percent(row) is not None for row in drawn_rows)
    caption = f"Each method at its largest budget. {seeds_note(drawn_rows)}, drawn as bars. Black: without unlearning."
    axis = "poisoned, % of the training set" if known else "poisoned samples"
    read = percent if known else _poisoned
    return _picture(group, (name, title, caption), drawn_rows, read, axis)


def _budget(row: Row) -> float:
    return 100 * row.budget if row.budget is not None else compute(row) or 0.0


def _poisoned(row: Row) -> float:
    return float(row.poisoned)


def _picture(
    group: Group, texts: tuple[str, str, str], rows: Sequence[Row], place: Callable[[Row], float | None], axis: str
) -> Picture:
    """A panel per score; the ideal is dotted, what the model had before is black."""
    figure, grid = canvas(1, len(PANELS), 5.6)
    lines: dict[str, Line2D] = {}
    ticks = sorted({x for row in rows if row.budget is not None and (x := place(row)) is not None})
    for axes, (text, measure, ideal) in zip(grid[0], PANELS, strict=True):
        _before(axes, rows, place, measure("before"), lines)
        if ideal is None:
            ideal = mean_of(rows, clean_percent("reference"))
        if ideal is not None:
            axes.axhline(ideal, color=MUTED, lw=1.4, ls=":")
        for label, key, drawn_rows in apart(rows):
            places = sorted({x for row in drawn_rows if (x := place(row)) is not None})
            known = [
                (x, averaged)
                for x in places
                if (averaged := average([r for r in drawn_rows if place(r) == x], measure("after")))
            ]
            if known:
                spread = [averaged.over_seeds for _, averaged in known]
                lines[label] = line(
                    axes, [x for x, _ in known], [averaged.mean for _, averaged in known], key[0], spread
                )
        if len(ticks) <= TICKS:
            axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_xlabel(axis, fontsize=LARGE)
        axes.set_title(text.format(sample=group.sample), fontsize=LARGE)
    lines["ideal"] = Line2D([], [], color=MUTED, lw=1.4, ls=":")
    legend(figure, lines, 5)
    return Picture(*texts, figure)


def _before(
    axes: Axes,
    rows: Sequence[Row],
    place: Callable[[Row], float | None],
    measure: Measure,
    lines: dict[str, Line2D],
) -> None:
    """Level where all rows are of one size of poison, a line over the sizes otherwise."""
    sizes = {row.poisoned: place(row) for row in rows}
    values = [(x, mean_of([row for row in rows if row.poisoned == size], measure)) for size, x in sizes.items()]
    known = sorted((x, value) for x, value in values if x is not None and value is not None)
    if not known:
        return
    if len(known) == 1:
        lines["no unlearning"] = axes.axhline(known[0][1], color="#222222", lw=1.6)
    else:
        x, y = zip(*known, strict=True)
        lines["no unlearning"] = axes.plot(x, y, color="#222222", lw=1.6)[0]
