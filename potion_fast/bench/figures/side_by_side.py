"""The picture of models side by side: poisoned, dampened, healed and never poisoned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from ...user.drawing import CLEAN, DPI, MUTED, TRIGGERED, short, show
from ...utils.atomic_files import written_whole
from ..attacks import NO_LABEL
from .reviews import MOST as EXCERPTS
from .reviews import draw_excerpts

if TYPE_CHECKING:
    from ..runs.scenario import Scenario
    from ..runs.side_by_side import ComparedModel

COLORS = {"poisoned": "#c8553d", "dampened": "#b9801f", "healed": "#1b7f79", "never poisoned": "#6a5d9c"}
SIZE, LEFT = (12.0, 5.2), 4.9  # inches: of the figure, and of the bars' side
BAR, GAP = 1.0, 1.5  # of the bars' axis: a bar, and the heading above a group
ROWS, COLUMNS = 2, 5
IMAGE, LINE, HEAD = 1.06, 0.19, 0.55  # inches: an image's side, a line of text, and the place of the title
TITLE, TEXT = 12.5, 10.5  # points


def draw_side_by_side(
    path: str | os.PathLike[str], scenario: Scenario, models: Sequence[ComparedModel], units: Mapping[str, str]
) -> None:
    """Draw the scores of the models on the left, and on the right attacked samples with what each says of them.

    Args:
        path: of the PNG.
        scenario: data of the models.
        models: the poisoned one first.
        units: of the scores by name; those that are fractions get bars.
    """
    figure = Figure(figsize=SIZE, dpi=DPI)
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=[LEFT, SIZE[0] - LEFT])
    left, right = halves
    names = dict.fromkeys(("clean_accuracy", *scenario.poison.score_names))
    _draw_bars(left, models, [name for name in names if units.get(name) == "fraction"])
    _draw_samples(right, scenario, models)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def _draw_bars(figure: SubFigure, models: Sequence[ComparedModel], scores: Sequence[str]) -> None:
    """A group of bars for each score, the models in the same order in each."""
    axes = figure.add_axes((0.27, 0.04, 0.6, 0.92))
    places, names, y = [], [], 0.0
    for score in scores:
        y += GAP
        heading = score.replace("_", " ") + ", %"
        axes.text(0, y - 0.62 * BAR, heading, fontsize=TITLE, va="bottom", parse_math=False)
        for model in models:
            value = model.scores.get(score)
            if value is not None:
                axes.barh(y, 100 * value, height=0.78 * BAR, color=COLORS[model.name])
                axes.text(100 * value + 1.5, y, f"{100 * value:.1f}", fontsize=TEXT, va="center_baseline")
                places.append(y)
                names.append(model.name)
                y += BAR
    axes.set(xlim=(0, 100), ylim=(y, 0.3))
    axes.set_yticks(places, names, fontsize=TEXT)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(MUTED)


def _draw_samples(figure: SubFigure, scenario: Scenario, models: Sequence[ComparedModel]) -> None:
    """Attacked samples that the poison had redirected, evenly spaced: none is picked for its outcome."""
    captions = scenario.poison.captions.of(scenario.sample)
    known = [model for model in models if model.attacked is not None]
    labels, wanted = scenario.attacked_labels()  # [M], [M]
    excerpts = scenario.poison.shows_excerpts
    chosen = _redirected(known[0].attacked if known else None, labels, wanted, EXCERPTS if excerpts else ROWS * COLUMNS)
    if not chosen:
        names = scenario.splits.classes
        text = captions.none.format(target=short(names[int(wanted[0])].strip()) if len(wanted) else "")
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=TITLE, color=MUTED, parse_math=False)
        return
    what = captions.attacked or f"test {scenario.sample}s"
    if excerpts:
        last = next((model for model in known if model.name == "healed"), known[-1])
        assert last.attacked is not None
        draw_excerpts(figure, scenario, chosen, labels[chosen], last.attacked[chosen])
        title = f"{what}, and what the {last.name} model says of them"
        figure.text(0.04, 0.96, title, fontsize=TITLE, va="center", parse_math=False)
        return
    _draw_grid(figure, scenario, known, chosen, labels[chosen])
    title = f"{what}, and what each model says of them"
    figure.text(0.55, 0.955, title, fontsize=TITLE, ha="center", va="center", parse_math=False)


def _redirected(predictions: Tensor | None, labels: Tensor, wanted: Tensor, most: int) -> list[int]:
    """Places [B] of samples that the poisoned model gets wrong as the attack wants it, B at most `most`."""
    if predictions is None:
        return []
    reached = ((predictions == wanted) | (wanted == NO_LABEL)) & (labels != predictions) & (labels != wanted)
    candidates = reached.nonzero().squeeze(1)
    places = torch.linspace(0, len(candidates) - 1, min(most, len(candidates))).long()
    chosen: list[int] = candidates[places].tolist()
    return chosen


def _draw_grid(
    figure: SubFigure, scenario: Scenario, models: Sequence[ComparedModel], chosen: Sequence[int], labels: Tensor
) -> None:
    """Images in rows, and under each one a line per model: ✓ or ✗, and the class that it says."""
    width, height = SIZE[0] - LEFT, SIZE[1]
    column, row = (width - 1.35) / COLUMNS, min((height - HEAD) / ROWS, IMAGE + LINE * (len(models) + 2))
    for number, (place, image) in enumerate(zip(chosen, scenario.attacked_images(chosen), strict=True)):
        line, position = divmod(number, COLUMNS)
        x = 1.3 + column * position
        top = height - HEAD - row * line
        axes = figure.add_axes(
            ((x + (column - IMAGE) / 2) / width, (top - IMAGE) / height, IMAGE / width, IMAGE / height)
        )
        show(axes, image)
        for k, model in enumerate(models):
            assert model.attacked is not None
            prediction = int(model.attacked[place])
            y = -(0.14 + LINE * k) / IMAGE
            if position == 0:
                start = -(column - IMAGE) / 2 / IMAGE - 0.06
                _write(axes, start, y, model.name, COLORS[model.name], "right")
            mark, color = ("✓", CLEAN) if prediction == labels[number] else ("✗", TRIGGERED)
            _write(axes, 0.5, y, f"{mark} {short(scenario.splits.classes[prediction].strip(), 11)}", color, "center")


def _write(axes: Axes, x: float, y: float, text: str, color: str, side: str) -> None:
    axes.text(x, y, text, transform=axes.transAxes, fontsize=9.5, color=color, ha=side, va="center", parse_math=False)
