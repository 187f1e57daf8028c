"""Figures 10 and 13: poison healed and model damage against how much of S_m was found."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from ....user.drawing import LARGE
from ...figures.style import canvas, ideal, legend
from ...sweep.rows import Row
from ..averages import average
from ..methods import PAPERS, attack_label, data_label, file_name, label, plain, variants
from ..papers import RHO, S_STEP, has_pawelczyk_rows, perturbed
from ..picture import Picture, line
from .scope import PAPERS_DATA, Scope, choose
from .sensitivity import TITLES

FIGURES = {10: "cifar10", 13: "cifar100"}
ONE_SHOT = -14.0  # where "1 sample" stands on the axis of percent
SIZES = 3  # columns at most


def found_pictures(rows: Sequence[Row]) -> list[Picture]:
    """The paper's two figures, then one for every other attack and data."""
    pictures = []
    for number, data in FIGURES.items():
        chosen = choose(rows, Scope("badnet", (data,)))
        title = f"Figure {number}: BadNet on {chosen.stand_in or data_label(data)}, by |S_f|"
        pictures += _pictures(f"figure{number:02}", title, chosen.rows, chosen.missing)
    in_figures = {("badnet", data) for data in FIGURES.values()}
    if not has_pawelczyk_rows(rows) and not any(row.data in PAPERS_DATA for row in rows):
        in_figures |= {("badnet", row.data) for row in rows}  # in place of the paper's
    for attack, data in dict.fromkeys((row.attack_name, row.data) for row in rows if not perturbed(row)):
        if (attack, data) not in in_figures:
            selected = [row for row in rows if (row.attack_name, row.data) == (attack, data)]
            title = f"As figure 10: {attack_label(attack)} on {data_label(data)}, by |S_f|"
            pictures += _pictures(file_name(f"found-{attack}-{data}"), title, selected, "")
    return pictures


def _pictures(name: str, title: str, rows: Sequence[Row], missing: str) -> list[Picture]:
    """The paper's methods in one picture; all others, together with the paper's own, in a second."""
    selected = [row for row in plain(rows) if row.at(RHO, S_STEP)]
    papers = [row for row in selected if row.method in PAPERS]
    others = [row for row in selected if row.method not in PAPERS or row.method in ("ptn-xlf", "none")]
    pictures = [_picture(name, title, papers, missing)]
    if any(row.method not in PAPERS for row in others):
        pictures.append(_picture(f"{name}-others", f"{title}: the methods that the paper does not show", others, ""))
    return pictures


def _picture(name: str, title: str, rows: Sequence[Row], missing: str) -> Picture:
    healed = [row for row in rows if row.poison_healed is not None or row.model_damage is not None]
    if not healed:
        return Picture(name, title, missing=missing or f"no rows at ρ = {RHO} and step {S_STEP}")
    sizes = sorted({row.poisoned for row in healed})
    shown = sizes if len(sizes) <= SIZES else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    figure, grid = canvas(2, len(shown), 7.6, sharex=True, sharey="row")
    lines = {}
    for column, size in enumerate(shown):
        of_size = [row for row in healed if row.poisoned == size]
        for axes, (measure, unit) in zip(grid[:, column], TITLES.items(), strict=True):
            ideal(axes, 100 if measure == "poison_healed" else 0)
            for (method, _), of_method in variants(of_size).items():
                places = sorted({_place(row) for row in of_method})
                known = [(x, average([r for r in of_method if _place(r) == x], measure)) for x in places]
                drawn = [(x, averaged) for x, averaged in known if averaged]
                if drawn:
                    x, y = [x for x, _ in drawn], [averaged.mean for _, averaged in drawn]
                    lines[label(method)] = line(axes, x, y, method, [averaged.over_seeds for _, averaged in drawn])
            if not column:
                axes.set_ylabel(unit, fontsize=LARGE)
        grid[0, column].set_title(f"$|S_m|$ = {size}", fontsize=LARGE)
        _axis(grid[1, column], any(row.one_shot for row in healed))
    legend(figure, lines, 6)
    several = len({row.seed for row in healed}) > 1
    caption = "ρ = 0.2, step 1.1, as in the paper. Lines join the means over the seeds"
    caption += "; bars: standard deviation over the seeds." if several else "; there is one seed."
    if len(shown) < len(sizes):
        caption += f" Of {len(sizes)} sizes of S_m, {len(shown)} are drawn; the tables have all."
    return Picture(name, title, caption, figure)


def _place(row: Row) -> float:
    return ONE_SHOT if row.one_shot else 100 * row.share


def _axis(axes: Axes, one_shot: bool) -> None:
    ticks = [20, 40, 60, 80, 100]
    names = [str(tick) for tick in ticks]
    if one_shot:
        ticks, names = [int(ONE_SHOT), *ticks], ["1\nsample", *names]
    axes.set_xticks(ticks, names)
    axes.set_xlabel("found, % of $S_m$", fontsize=LARGE)
