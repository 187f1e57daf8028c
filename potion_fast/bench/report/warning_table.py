"""The warnings of all rows, each once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..sweep.rows import Row

SHOWN = 3  # rows that a warning names
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")

Warned = tuple[str, int, list[str]]  # a sentence, its number of occurrences in the rows, and the first of their files


def warnings_of(rows: Sequence[Row]) -> list[Warned]:
    """Each warning, the most frequent first; those that differ in one number only are one, with the numbers listed."""
    places: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for text in row.warnings or ():
            places[str(text)].append(row.file.removesuffix(".json"))
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for text in places:
        alike[tuple(NUMBER.split(text))].append(text)
    warned_rows = []
    for texts in alike.values():
        for folded in _folded(texts):
            files = [file for text in folded for file in places[text]]
            warned_rows.append((_joined(folded), len(files), list(dict.fromkeys(files))[:SHOWN]))
    return sorted(warned_rows, key=lambda warned: (-warned[1], warned[0]))


def _folded(texts: Sequence[str]) -> list[list[str]]:
    """Texts that differ in their numbers, grouped by all numbers but one: the one that gives the fewest groups."""
    best = [[text] for text in texts]
    for place in range(len(NUMBER.findall(texts[0]))):
        by_others: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for text in texts:
            numbers = NUMBER.findall(text)
            by_others[tuple(numbers[:place] + numbers[place + 1 :])].append(text)
        if len(by_others) < len(best):
            best = list(by_others.values())
    return best


def _joined(texts: Sequence[str]) -> str:
    """One text, with all numbers at the place where they differ."""
    numbers = [NUMBER.findall(text) for text in texts]
    parts, text = NUMBER.split(texts[0]), ""
    for part, column in zip(parts, zip(*numbers, strict=True), strict=False):
        text += part + ", ".join(_ascending(column))
    return text + parts[-1]


def _ascending(numbers: Iterable[str]) -> list[str]:
    return sorted(set(numbers), key=float)
