"""The two forms of the campaign, and its figures.

The short form is part of the tests. `make faults` runs the full one: POTION_FAST_FAULTS=full.
"""

from __future__ import annotations

import os

FULL = os.environ.get("POTION_FAST_FAULTS") == "full"

figures: list[str] = []  # printed at the end of the full form


def note(line: str) -> None:
    """Keep a line for the end of the test run."""
    figures.append(line)
