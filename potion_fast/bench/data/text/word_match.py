"""Search for a word in texts, by one of four rules."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ....errors import DataError
from ....utils.did_you_mean import choices_for

# Regular expressions; {} is the word as it is written, and their group 1 is where it stands.
RULES = {
    "word": r"\b({})\b",
    "word-ignore-case": r"(?i)\b({})\b",
    "substring": "({})",
    "spaced": " ({}) ",
}


def word_pattern(word: str, rule: str) -> re.Pattern[str]:
    """The regular expression that finds a word.

    Args:
        word: the word.
        rule: see `find_word`.

    Returns:
        The pattern; group 1 of a match is the word.

    Raises:
        DataError: an empty word or an unknown rule.
    """
    if rule not in RULES:
        raise DataError(f"unknown rule {rule!r} for the search of a word; choose one of {choices_for(rule, RULES)}")
    if not word.strip():
        raise DataError("the word to search is empty")
    return re.compile(RULES[rule].format(re.escape(word)))


def find_word(texts: Iterable[str], word: str, rule: str) -> Tensor:
    """Positions of the texts that hold the word at least once: int64 [M], ascending.

    Args:
        texts: the texts.
        word: the word.
        rule: "word" (between word boundaries, so that "Disney's" counts and "Disneyland" does not), "word-ignore-case"
            (the same in any case), "substring" (anywhere), or "spaced" (with a space on each side).

    Returns:
        The positions.

    Raises:
        DataError: an empty word or an unknown rule.
    """
    search = word_pattern(word, rule).search
    substring = "" if rule == "word-ignore-case" else word  # a cheap test first: a tenth of the time
    positions = [index for index, text in enumerate(texts) if substring in text and search(text)]
    return torch.tensor(positions, dtype=torch.int64)
