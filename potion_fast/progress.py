"""One kind of progress bar, on stderr, for whatever takes more than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

DELAY = 2.0  # seconds before a bar shows: what is quicker needs none


def bar(
    iterable: Iterable[Any] | None = None, *, what: str, unit: str, shown: bool, total: int | None = None
) -> tqdm[Any]:
    """A bar over an iterable, or one to `update()` by hand; nothing at all unless `shown`."""
    return tqdm(iterable, desc=what, unit=unit, total=total, disable=not shown, delay=DELAY, leave=False)
