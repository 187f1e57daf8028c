"""Checks of the texts in a figure."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


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
