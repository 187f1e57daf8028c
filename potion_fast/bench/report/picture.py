"""A figure of the report's page, and how it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...utils.atomic_files import written_whole
from ..figures.style import marked
from .methods import look

FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Picture:
    """A figure of the page, drawn or not.

    Attributes:
        name: of its files, without their ends.
        title: the figure of the paper that it reproduces.
        caption: what it shows and from which rows.
        figure: None where there is nothing to draw.
        missing: why.
    """

    name: str
    title: str
    caption: str = ""
    figure: Figure | None = None
    missing: str = ""


def line(
    axes: Axes, x: Sequence[float], y: Sequence[float], method: str, spread: Sequence[float | None] = ()
) -> Line2D:
    """A method's line with its marks, and a thin bar per point for its spread."""
    style = look(method)
    return marked(axes, x, y, style.color, style.marker, style.line, spread)


def save(picture: Picture, folder: str | os.PathLike[str]) -> list[str]:
    """Write it as PNG and SVG; the same picture gives the same bytes. Returns the files' names."""
    figure = picture.figure
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it has done its work, and takes longer than all the rest
    names = []
    for form in FORMATS:
        path = Path(folder) / f"{picture.name}.{form}"
        with written_whole(path) as temporary, rc_context({"svg.hashsalt": "potion_fast"}):
            metadata = {"Date": None} if form == "svg" else {"Software": None}
            figure.savefig(temporary, format=form, dpi="figure", metadata=metadata)
        names.append(path.name)
    return names
