"""Progress bar on stderr, for what takes more than a few seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

DELAY = 2.0  # seconds before a bar shows: what is quicker needs none


def bar(
    iterable: Iterable[Any] | None = None, *, label: str, unit: str, shown: bool, total: int | None = None
) -> tqdm[Any]:
    """A progress bar over an iterable, or one to `update()` by hand.

    Args:
        iterable: What the bar is over; None to update it by hand.
        label: Of the bar.
        unit: Of the steps.
        shown: False for no bar; there is none either where stderr is no terminal.
        total: Number of steps, where the iterable does not tell.
    """
    hidden = not (shown and sys.stderr.isatty())
    return tqdm(iterable, desc=label, unit=unit, total=total, disable=hidden, delay=DELAY, leave=False)
