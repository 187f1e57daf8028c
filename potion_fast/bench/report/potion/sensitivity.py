"""Figures 8, 9 and 14 to 17: poison healed and model damage against ρ; and both against the step size (table 8)."""

from __future__ import annotations

from collections.abc import Sequence

from ....user.drawing import LARGE, MUTED, SMALL
from ...figures.style import MARKERS, ORDER, canvas, ideal, legend, marked
from ...sweep.rows import Row
from ..averages import Average, average
from ..methods import data_label, label, plain, variants
from ..papers import RHO
from ..picture import Picture, line
from .scope import CIFAR, Scope, choose
from .tables import STEPS

# number of the figure -> (method, data, step size)
FIGURES = {
    8: ("ptn-xlf", "cifar10", 1.1),
    9: ("ptn-lf", "cifar10", 1.1),
    14: ("ptn-xlf", "cifar100", 1.1),
    15: ("ptn-xlf", "cifar10", 1.01),
    16: ("ptn-lf", "cifar10", 1.01),
    17: ("ptn-xlf", "cifar10", 2.0),
}
TITLES = {"poison_healed": "poison healed, %", "model_damage": "model damage, points"}


def rho_pictures(rows: Sequence[Row]) -> list[Picture]:
    """Figures 8, 9 and 14 to 17."""
    return [_rho_picture(number, *spec, rows) for number, spec in FIGURES.items()]


def _rho_picture(number: int, method: str, data: str, s_step: float, rows: Sequence[Row]) -> Picture:
    chosen = choose(rows, Scope("badnet", (data,)))
    selected = [row for row in plain(chosen.rows) if row.method == method and row.rho is not None]
    selected = [row for row in selected if row.at(row.rho or 0, s_step)]
    where = chosen.stand_in or data_label(data)
    title = f"Figure {number}: {label(method)} by ρ, step {s_step:g}, BadNet on {where}"
    name = f"figure{number:02}"
    rhos = sorted({row.rho for row in selected if row.rho is not None})
    if len(rhos) < 2:
        why = chosen.missing or f"{len(rhos) or 'no'} value of ρ for {label(method)} at step {s_step:g}"
        return Picture(name, title, missing=why)
    figure, grid = canvas(1, 2, 5.2)
    lines = {}
    for axes, (measure, text) in zip(grid[0], TITLES.items(), strict=True):
        ideal(axes, 100 if measure == "poison_healed" else 0)
        axes.axvline(RHO, color=MUTED, lw=1)
        for place, size in enumerate(sorted({row.poisoned for row in selected})):
            color, marker = ORDER[place % len(ORDER)], MARKERS[place % len(MARKERS)]
            for alone, style in ((False, "-"), (True, ":")):
                of_method = [row for row in selected if row.poisoned == size and row.one_shot == alone]
                x, y, spread = _along(of_method, rhos, measure)
                if x:
                    found = "1 found" if alone else "more found"
                    lines[f"$|S_m|$ = {size}, {found}"] = marked(axes, x, y, color, marker, style, spread)
        axes.set_xlabel(r"$\rho$: the search stops at this share of $S_f$'s accuracy", fontsize=LARGE)
        axes.set_ylabel(text, fontsize=LARGE)
    grid[0, 0].text(RHO, 1.01, r"$\rho$ = 0.2", transform=grid[0, 0].get_xaxis_transform(), ha="center", fontsize=SMALL)
    legend(figure, lines, 4)
    caption = "Means over |S_f| and seeds; bars: standard deviation over |S_f|. The line at ρ = 0.2 is the default."
    return Picture(name, title, caption, figure)


def _along(
    rows: Sequence[Row], rhos: Sequence[float], measure: str
) -> tuple[list[float], list[float], list[float | None]]:
    """ρ, mean and spread over scenarios, where there are rows."""
    averages: list[tuple[float, Average]] = []
    for rho in rhos:
        if averaged := average([row for row in rows if row.rho == rho], measure):
            averages.append((rho, averaged))
    return (
        [rho for rho, _ in averages],
        [averaged.mean for _, averaged in averages],
        [averaged.over_scenarios for _, averaged in averages],
    )


def step_picture(rows: Sequence[Row]) -> Picture:
    """Table 8 as a picture."""
    name, title = "steps", "Table 8 as a picture: the step size, BadNet"
    chosen = choose(rows, Scope("badnet", CIFAR))
    if chosen.stand_in:
        title += f" on {chosen.stand_in}"
    selected = [row for row in plain(chosen.rows) if row.s_step is not None and row.at(RHO, row.s_step)]
    steps = sorted({row.s_step for row in selected if row.s_step is not None})
    if len(steps) < 2:
        return Picture(name, title, missing=chosen.missing or f"{len(steps) or 'no'} step size at ρ = {RHO}")
    figure, grid = canvas(2, 2, 7.4, sharex=True, sharey="row")
    lines = {}
    for column, (alone, text) in enumerate(((False, "more than one found"), (True, "one-shot"))):
        for axes, (measure, unit) in zip(grid[:, column], TITLES.items(), strict=True):
            ideal(axes, 100 if measure == "poison_healed" else 0)
            for (method, _), of_method in variants([row for row in selected if row.one_shot == alone]).items():
                found = [
                    (place, average([r for r in of_method if r.s_step == s], measure)) for place, s in enumerate(steps)
                ]
                known = [(place, averaged) for place, averaged in found if averaged]
                if known:
                    x, y = [float(place) for place, _ in known], [averaged.mean for _, averaged in known]
                    lines[label(method)] = line(axes, x, y, method, [averaged.over_scenarios for _, averaged in known])
            if not column:
                axes.set_ylabel(unit, fontsize=LARGE)
        grid[0, column].set_title(text, fontsize=LARGE)
        grid[1, column].set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        grid[1, column].set_xlabel("factor on s after each step", fontsize=LARGE)
    legend(figure, lines)
    lacking = [f"{step:g}" for step in STEPS if step not in steps]
    caption = "Means over scenarios and seeds at ρ = 0.2; bars: standard deviation over scenarios."
    if lacking:
        caption += f" The paper has step {' and '.join(lacking)} too."
    return Picture(name, title, caption, figure)
