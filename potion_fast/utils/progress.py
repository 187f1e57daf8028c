"""One kind of progress bar, on stderr, for whatever takes more than a few seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

DELAY = 2.0  # seconds before a bar shows: what is quicker needs none


def bar(
    iterable: Iterable[Any] | None = None, *, what: str, unit: str, shown: bool, total: int | None = None
) -> tqdm[Any]:
    """A bar over an iterable, or one to `update()` by hand; nothing unless `shown` on a terminal."""
    hidden = not (shown and sys.stderr.isatty())
    return tqdm(iterable, desc=what, unit=unit, total=total, disable=hidden, delay=DELAY, leave=False)
