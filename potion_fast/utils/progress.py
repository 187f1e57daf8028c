"""Progress bar for what takes more than a few seconds: on stderr, or as a widget of a notebook."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import TqdmWarning, tqdm

DELAY = 2.0  # seconds before a bar shows: what is quicker needs none


def bar(
    iterable: Iterable[Any] | None = None, *, label: str, unit: str, shown: bool, total: int | None = None
) -> tqdm[Any]:
    """A progress bar over an iterable, or one to `update()` by hand.

    Args:
        iterable: What the bar is over; None to update it by hand.
        label: Of the bar.
        unit: Of the steps.
        shown: False for no bar; there is none either where stderr is neither a terminal nor a notebook's.
        total: Number of steps, where the iterable does not tell.
    """
    hidden = not (shown and (sys.stderr.isatty() or _in_notebook()))
    kind = tqdm if hidden else _kind_of_bar()
    return kind(iterable, desc=label, unit=unit, total=total, disable=hidden, delay=DELAY, leave=False)


def _in_notebook() -> bool:
    """Whether what is written to stderr appears below a notebook's cell."""
    return type(sys.stderr).__module__.partition(".")[0] == "ipykernel"


def _kind_of_bar() -> type[tqdm[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # without ipywidgets the bar is one of text
        from tqdm.auto import tqdm as automatic
    kind: type[tqdm[Any]] = automatic
    return kind
