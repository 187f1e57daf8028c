"""Figures 11, 18 and 19: seconds of an unlearning by method and phase."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from matplotlib.axes import Axes

from ....user.drawing import LARGE, SMALL
from ...figures.style import ORDER, canvas
from ...sweep.rows import Row
from ..methods import data_label, label, plain, variants
from ..papers import RHO
from ..picture import Picture
from .paper_values import of_paper
from .scope import CIFAR, Scope, choose

FIGURES = {11: 1.1, 18: 1.01, 19: 2.0}  # number of the figure -> step size
UNLEARNING = ("training", "retain", "forget", "edit", "search")  # phases, in the order they are drawn
SIZE = 500  # |S_m| of the paper's
PHASES = {
    "training": "training",
    "retain": "importances of the retain set",
    "forget": "importances of $S_f$",
    "edit": "edit",
    "search": "search",
}


def time_pictures(rows: Sequence[Row]) -> list[Picture]:
    """A picture per step size, a panel per data and model."""
    return [_picture(number, s_step, rows) for number, s_step in FIGURES.items()]


def _picture(number: int, s_step: float, rows: Sequence[Row]) -> Picture:
    chosen = choose(rows, Scope("badnet", CIFAR))
    name, where = f"figure{number}", chosen.stand_in or "CIFAR-10 and CIFAR-100"
    title = f"Figure {number}: seconds of an unlearning, step {s_step:g}, BadNet on {where}"
    selected = [row for row in plain(chosen.rows) if row.at(RHO, s_step) and row.phases]
    if not any(row.s_step is not None for row in selected):
        return Picture(name, title, missing=chosen.missing or f"no times of a search at ρ = {RHO} and step {s_step:g}")
    sizes = sorted({row.poisoned for row in selected})
    size = SIZE if SIZE in sizes else sizes[len(sizes) // 2]
    selected = [row for row in selected if row.poisoned == size]
    settings = sorted({row.setting for row in selected}, key=str)
    count = max(len({row.method for row in selected if row.setting == setting}) for setting in settings)
    figure, grid = canvas(1, len(settings), 1.9 + 0.42 * count)
    phases = _phases(selected)
    for axes, setting in zip(grid[0], settings, strict=True):
        _bars(axes, [row for row in selected if row.setting == setting], phases)
        axes.set_xlim(0, (1 + 0.32 * len(settings)) * axes.get_xlim()[1])  # room for the texts behind the bars
        axes.set_title(f"{data_label(setting[0])}, $|S_m|$ = {size}", fontsize=LARGE)
    handles = [bar for bar in grid[0, 0].containers if bar.get_label() in map(_phase_label, phases)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)
    return Picture(name, title, _caption(selected, papers=not chosen.stand_in, s_step=s_step), figure)


def _phases(rows: Sequence[Row]) -> list[str]:
    """Those that rows have, the known ones first."""
    phases = dict.fromkeys(name for row in rows for name, value in row.phases.items() if value > 0)
    return [*(name for name in UNLEARNING if name in phases), *(name for name in phases if name not in UNLEARNING)]


def _phase_label(phase: str) -> str:
    return PHASES.get(phase, phase)


def _bars(axes: Axes, rows: Sequence[Row], phases: Sequence[str]) -> None:
    """A bar per method, its phases one after the other, the mean and spread of the sum behind it."""
    by_method = variants([row for row in rows if sum(row.phases.values()) > 0])
    names = [label(method) for method, _ in by_method]
    groups = list(by_method.values())
    ends = [0.0] * len(groups)
    for place, phase in enumerate(phases):
        widths = [fmean(row.phases.get(phase, 0.0) for row in group) for group in groups]
        axes.barh(names, widths, left=ends, height=0.62, color=ORDER[place % len(ORDER)], label=_phase_label(phase))
        ends = [a + b for a, b in zip(ends, widths, strict=True)]
    for place, group in enumerate(groups):
        totals = [sum(row.phases.values()) for row in group]
        spread = f" ± {_seconds(stdev(totals))}" if len(totals) > 1 else ""
        axes.text(ends[place], place, f"  {_seconds(fmean(totals))}{spread} s", va="center", fontsize=SMALL)
    axes.set_xlim(0, max(ends, default=1))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("seconds", fontsize=LARGE)


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _caption(rows: Sequence[Row], papers: bool, s_step: float) -> str:
    caption = (
        "Means over |S_f| and seeds, ± their standard deviation; wall-clock time, without the evaluation of the result."
    )
    if shared := sorted({row.retain_from for row in rows if row.retain_from and row.retain_from != "pass"}):
        caption += f" Passes over the retain set: {'; '.join(shared)}."
    if papers and any(row.data == "cifar10" for row in rows):
        texts = []
        for method in ("ptn-xlf", "ptn-lf", "ssd-goel", "eu"):
            value = of_paper("section 5.3", "cifar10", method, "seconds")
            if value and value.s_step in (None, s_step):
                run = " for one setting" if method == "ssd-goel" else ""
                texts.append(f"{label(method)} {value.mean:.2f} ± {value.spread:.2f}{run}")
        caption += f" The paper, CIFAR-10, on an RTX 4090, in seconds: {', '.join(texts)}."
    return caption
