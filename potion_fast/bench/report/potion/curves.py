"""Figure 6, the trade-off along a search; and equation 5's objective compared with equation 6's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from ....user.drawing import CLEAN, FORGET, LARGE, MUTED, SMALL, TRIGGERED
from ...figures.style import ORDER, canvas, legend
from ...sweep.rows import Row
from ..methods import label, plain, setting_label
from ..papers import RHO, S_STEP
from ..picture import Picture
from .scope import CIFAR, PAPERS_DATA, Scope, choose

NEAREST = (500, 0.1)  # |S_m| and |S_f| / |S_m| of the search that is drawn, or the nearest to them
EVEN = 0.5  # w_f of equation 5: Goel et al. weigh both changes equally


@dataclass(frozen=True)
class SearchPoint:
    """A step of a search. Accuracies in [0, 1]; clean and triggered are None where they were not measured."""

    dampened: int
    alpha: float | None
    found: float
    clean: float | None
    triggered: float | None


def points(row: Row) -> list[SearchPoint]:
    """The untouched model, where its accuracies are known, then the steps of the trace, fewest weights first."""
    computed = [
        SearchPoint(step.dampened, step.alpha, step.found_accuracy, step.clean_accuracy, step.attacked_accuracy)
        for step in row.trace or ()
    ]
    start = before(row)
    if start is not None and not any(point.dampened == 0 for point in computed):
        computed.append(SearchPoint(0, None, start, row.clean_accuracy("before"), row.attacked_accuracy("before")))
    return sorted(computed, key=lambda point: point.dampened)


def before(row: Row) -> float | None:
    """The untouched model's accuracy on S_f, acc₀: as the row says, or as a step that dampened nothing measured it."""
    if row.before_found_accuracy is not None:
        return row.before_found_accuracy
    return next((step.found_accuracy for step in row.trace or () if step.dampened == 0), None)


def _traced(rows: Sequence[Row], wanted: tuple[int, float]) -> dict[str, Row]:
    """By method, the searches of the one scenario and seed nearest to |S_m| and share as wanted; XLF's if it can be."""
    traced = [row for row in plain(rows) if row.trace and row.rho == RHO]
    if not traced:
        return {}
    size, share = wanted
    main = [row for row in traced if row.method == "ptn-xlf"] or traced

    def distance(row: Row) -> Any:
        step = row.s_step is None, abs((row.s_step or 0) - S_STEP)
        return row.data not in CIFAR, abs(row.poisoned - size), abs(row.share - share), *step, row.seed

    chosen = min(main, key=distance)
    same = [row for row in traced if (row.scenario, row.seed) == (chosen.scenario, chosen.seed)]
    return {row.method: row for row in same if row.s_step == chosen.s_step}


def dampened_axis(axes: Axes, x: Sequence[int]) -> None:
    """Numbers of weights dampened along the x axis, logarithmic above 0."""
    positive = [value for value in x if value]
    axes.set_xscale("symlog", linthresh=min(positive, default=1), linscale=0.5)
    axes.set_xlim(0, 1.15 * max(positive, default=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("weights dampened", fontsize=LARGE)


def _where(row: Row) -> str:
    found = "1" if row.one_shot else f"{row.found}"
    return f"{setting_label(row.setting)}: {found} of {row.poisoned} found, seed {row.seed}"


def search_picture(rows: Sequence[Row]) -> Picture:
    """Figure 6: accuracies on S_f, on clean and on triggered test images along the searches of one scenario."""
    name, title = "figure06", "Figure 6: the trade-off along a PTN search"
    chosen = choose(rows, Scope("badnet", PAPERS_DATA))
    searches = _traced(chosen.rows, NEAREST)
    if not searches:
        return Picture(name, title, missing=chosen.missing or "no row has the trace of a search")
    still = [label(method) for method, row in searches.items() if not any(point.dampened for point in points(row))]
    searches = {method: row for method, row in searches.items() if label(method) not in still}
    if not searches:
        return Picture(name, title, missing="the search dampened no weight")
    figure, grid = canvas(1, len(searches), 5.4, sharey=True)
    lines = {}
    for axes, (method, row) in zip(grid[0], searches.items(), strict=True):
        steps = points(row)
        for text, color, of in (
            ("clean test images right", CLEAN, lambda point: point.clean),
            ("triggered test images right", TRIGGERED, lambda point: point.triggered),
            ("$S_f$ still given the poison's label", FORGET, lambda point: point.found),
        ):
            known = [(point.dampened, 100 * of(point)) for point in steps if of(point) is not None]
            if known:
                style = ":" if color == FORGET else "-"
                shown: dict[str, Any] = {"marker": "" if color == FORGET else "o", "ms": 4, "clip_on": False}
                lines[text] = axes.plot(*zip(*known, strict=True), color=color, ls=style, lw=2, **shown)[0]
        if (start := before(row)) is not None:
            axes.axhline(100 * RHO * start, color=MUTED, lw=1, ls="--")
            text_style = {"transform": axes.get_yaxis_transform(), "va": "top", "fontsize": SMALL}
            axes.text(0.01, 100 * RHO * start - 1, r"$\rho$ · acc₀", **text_style)
        if row.dampened:
            axes.axvline(row.dampened, color=MUTED, lw=1)
        dampened_axis(axes, [point.dampened for point in steps])
        axes.set_title(f"{label(method)}: {row.reason or 'ended'}", fontsize=LARGE)
    grid[0, 0].set_ylim(-2, 102)
    grid[0, 0].set_ylabel("share of images, %", fontsize=LARGE)
    legend(figure, lines, 3)
    caption = f"{_where(row)}. The upright line is where the search stopped, the dashed one the accuracy it stops at."
    if still:
        caption += f" Not drawn, as no step dampened a weight: {', '.join(still)}."
    return Picture(name, title, caption, figure)


@dataclass(frozen=True)
class Objectives:
    """Both objectives at the points of a search where both can be computed, in percentage points.

    Attributes:
        points: of the search.
        five: (Acc_Sf(∞) − Acc_Sf(α)) · w_f + (Acc_Str(α) − Acc_Str(∞)) · (1 − w_f), to be made largest; S_f is all
            of S_m and clean test images replace a clean retain set.
        six: |Acc_Sf(∞) · ρ − Acc_Sf(α)|, to be made smallest.
    """

    points: list[SearchPoint]
    five: list[float]
    six: list[float]

    @property
    def best(self) -> tuple[SearchPoint, SearchPoint]:
        """What each would choose; of equals, the one that dampens fewest weights."""
        return self.points[self.five.index(max(self.five))], self.points[self.six.index(min(self.six))]


def objectives(row: Row, rho: float = RHO, weight: float = EVEN) -> Objectives | None:
    """None where the row does not say enough."""
    start, clean = before(row), row.clean_accuracy("before")
    if start is None or clean is None:
        return None
    known = [point for point in points(row) if point.clean is not None]
    if not known:
        return None
    five, six = [], []
    for point in known:
        assert point.clean is not None
        five.append(100 * ((start - point.found) * weight + (point.clean - clean) * (1 - weight)))
        six.append(100 * abs(start * rho - point.found))
    return Objectives(known, five, six)


def objectives_picture(rows: Sequence[Row]) -> Picture:
    """Both objectives along the searches of a scenario with all of S_m found, and what each would choose."""
    name, title = "equations5-6", "Equation 5's objective beside equation 6's"
    whole = [row for row in rows if row.attack == "badnet" and row.found == row.poisoned and row.trace]
    both = [row for row in whole if objectives(row)]
    searches = _traced(both, (NEAREST[0], 1.0))
    if not searches:
        why = "no search with all of S_m found has accuracies on clean images along its trace"
        return Picture(name, title, missing=why if not both else f"none of them is at ρ = {RHO}")
    figure, grid = canvas(2, len(searches), 7.6, sharey="row", sharex="col")
    lines: dict[str, Any] = {}
    choices = []
    for (top, bottom), (method, row) in zip(grid.T, searches.items(), strict=True):
        computed = objectives(row)
        assert computed is not None
        x = [point.dampened for point in computed.points]
        style: dict[str, Any] = {"lw": 2, "marker": "o", "ms": 4, "clip_on": False}
        lines["eq. 5, to be made largest"] = top.plot(x, computed.five, color=ORDER[3], **style)[0]
        lines["eq. 6, to be made smallest"] = top.plot(x, computed.six, color=ORDER[1], **style)[0]
        lines["clean images right"] = bottom.plot(
            x, [100 * (p.clean or 0) for p in computed.points], color=CLEAN, **style
        )[0]
        hit = [(p.dampened, 100 * p.triggered) for p in computed.points if p.triggered is not None]
        if hit:
            text = "triggered images right"
            lines[text] = bottom.plot(*zip(*hit, strict=True), color=TRIGGERED, **style)[0]
        for point, color, ls in zip(computed.best, (ORDER[3], ORDER[1]), ("-", "--"), strict=True):
            for axes in (top, bottom):
                axes.axvline(point.dampened, color=color, lw=1.6, ls=ls)
        dampened_axis(bottom, x)
        top.set_title(label(method), fontsize=LARGE)
        choices.append(f"{label(method)}: {_choices(computed)}")
    grid[0, 0].set_ylabel("objective, points", fontsize=LARGE)
    grid[1, 0].set_ylabel("share of images, %", fontsize=LARGE)
    grid[1, 0].set_ylim(-2, 102)
    legend(figure, lines, 4)
    row = next(iter(searches.values()))
    caption = (
        f"{_where(row)}. With all of S_m found equation 5 can be computed as well, at w_f = ½, with clean test images "
        f"for its clean retain set. Upright lines: what each would choose. {'; '.join(choices)}."
    )
    return Picture(name, title, caption, figure)


def _choices(computed: Objectives) -> str:
    texts = []
    for number, point in zip((5, 6), computed.best, strict=True):
        assert point.clean is not None
        hit = "" if point.triggered is None else f" and triggered {100 * point.triggered:.1f} %"
        texts.append(f"eq. {number} dampens {point.dampened:,} weights (clean {100 * point.clean:.1f} %{hit} right)")
    return ", ".join(texts)
