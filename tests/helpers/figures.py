"""Figures that are drawn, and checks of the texts in them."""

from types import ModuleType
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def kept_figures(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Figure]:
    """Every figure that the module draws from now on."""
    drawn: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            drawn.append(self)

    monkeypatch.setattr(module, "Figure", Kept)
    return drawn


def texts_outside(figure: Figure) -> list[str]:
    """Texts that extend beyond their half of the figure."""
    ticks = {label for axes in figure.findobj(Axes) for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    outside = []
    for half in figure.subfigs:
        for text in half.findobj(Text):
            box, edge = text.get_window_extent(), half.bbox
            cut = box.x0 < edge.x0 - 1 or box.y0 < edge.y0 - 1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1
            shown = text.get_visible() and text not in ticks  # ticks past an axis' end exist and are not drawn
            if text.get_text() and shown and cut:
                outside.append(text.get_text())
    return outside


def texts_in_each_other(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that overlap, and texts with themselves that extend beyond the page."""
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    page = figure.bbox
    cut = [
        (name, name)
        for name, box in boxes
        if box.x0 < page.x0 or box.y0 < page.y0 or box.x1 > page.x1 or box.y1 > page.y1
    ]
    pairs = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if _overlap(one, other)]
    return cut + pairs


def _overlap(one: Bbox, other: Bbox) -> bool:
    """Whether two boxes share more than half a pixel in both directions."""
    shared = Bbox.intersection(one, other)
    return shared is not None and shared.width > 0.5 and shared.height > 0.5
