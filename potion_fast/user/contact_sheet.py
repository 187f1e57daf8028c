"""Contact sheet: the samples that are most suspect, and those on both sides of the line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..utils.atomic_files import written_whole
from .drawing import CLEAN, DPI, LARGE, MUTED, TRIGGERED, WIDTH, short, show

LEGEND = "index and score, label given, label proposed; in a frame: found"

COLUMNS = 8
SIDE, LINE, TEXT = 1.25, 0.185, 9.5  # inches: of an image, and of a line of text; points
HEAD, LINES, EDGE = 0.5, 3, 0.18  # inches above a group; lines under an image; inches around the page


@dataclass(frozen=True)
class Sample:
    """A training sample on the sheet.

    Attributes:
        index: in the training set.
        image: [C, H, W], pixels in [0, 1], as trained on.
        score: how suspect it is; None where it has none.
        given: the label that it was trained on.
        proposed: the label that it gets; None for one that is no suspect.
        found: whether it is one of those that were found: in a frame.
    """

    index: int
    image: Tensor
    score: float | None
    given: str
    proposed: str | None
    found: bool


def draw_contact_sheet(path: str | os.PathLike[str], groups: Mapping[str, Sequence[Sample]]) -> None:
    """Draw groups of samples below each other, each under its heading; a PNG.

    Args:
        path: of the PNG.
        groups: samples by heading; one without any is left out.
    """
    shown = {heading: samples for heading, samples in groups.items() if samples}
    row = SIDE + (LINES + 1) * LINE
    height = 2 * EDGE + sum(HEAD + row * -(-len(samples) // COLUMNS) for samples in shown.values())
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    top = height - EDGE
    for heading, samples in shown.items():
        figure.text(EDGE / WIDTH, (top - 0.25) / height, heading, fontsize=LARGE, va="center", parse_math=False)
        if top == height - EDGE:
            place = (1 - EDGE / WIDTH, (top - 0.25) / height)
            figure.text(*place, LEGEND, fontsize=TEXT, color=MUTED, ha="right", va="center")
        top -= HEAD
        for number, sample in enumerate(samples):
            line, column = divmod(number, COLUMNS)
            _draw(figure, sample, EDGE + column * (WIDTH - 2 * EDGE) / COLUMNS, top - line * row)
        top -= row * -(-len(samples) // COLUMNS)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def _draw(figure: Figure, sample: Sample, x: float, top: float) -> None:
    """An image, its upper left corner at these inches from the page's lower left one, and the lines under it."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((x / width, (top - SIDE) / height, SIDE / width, SIDE / height))
    show(axes, sample.image)
    if sample.found:
        axes.spines[:].set(color=CLEAN, linewidth=3)
    changed = sample.proposed is not None and sample.proposed != sample.given
    label = "" if sample.proposed is None else f"→ {short(sample.proposed)}" if changed else "kept"
    lines = [
        (f"{sample.index}" + ("" if sample.score is None else f"   {sample.score:.3g}"), MUTED),
        (short(sample.given), TRIGGERED if changed else MUTED),
        (label, CLEAN if changed else MUTED),
    ]
    for number, (text, color) in enumerate(lines):
        y = -(0.13 + LINE * number) / SIDE
        axes.text(0, y, text, transform=axes.transAxes, fontsize=TEXT, color=color, va="center", parse_math=False)
