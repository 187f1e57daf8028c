"""Warnings at the line of the program that called the package."""

from __future__ import annotations

import sys
import warnings

from ..errors import PotionWarning

PASSED_THROUGH = (__name__.partition(".")[0], "torch", "contextlib")  # torch calls the package's hooks


def warn_caller(message: str) -> None:
    """A PotionWarning at the innermost frame that is neither of this package nor of torch, however deep the call is."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in PASSED_THROUGH:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, PotionWarning, stacklevel=level)
