"""What an unknown word may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """The end of an error about an unknown word: "; did you mean 'sequential'?", or nothing where no other is like it.

    Args:
        word: As it was given.
        known: All that there are.
    """
    by_form = {_form(str(name)): str(name) for name in known}
    close = get_close_matches(_form(str(word)), by_form, n=1, cutoff=0.65)
    return f"; did you mean {by_form[close[0]]!r}?" if close else ""


def _form(word: str) -> str:
    """Without what people write in several ways."""
    return word.lower().strip().lstrip("-").replace("_", "-").replace(" ", "-")


def choices_for(word: object, known: Iterable[object]) -> str:
    """The choices, with commas between them, and which of them an unknown word may have been meant to be."""
    names = [str(name) for name in known]
    return ", ".join(names) + did_you_mean(word, names)
