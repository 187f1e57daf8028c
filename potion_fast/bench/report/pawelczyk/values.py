"""Measures of rows, lines of methods and texts, for the tables and figures of Pawelczyk et al."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...sweep.rows import Row, When
from ..averages import Average, average
from ..methods import Variant, label, variants
from ..table import format_number

Measure = Callable[[Row], float | None]


def score(name: str, when: When = "after", scale: float = 1) -> Measure:
    """A metric by its name, times a factor: after unlearning, before it, or of the reference."""

    def read(row: Row) -> float | None:
        value = row.score(name, when)
        return None if value is None else scale * value

    return read


def clean_percent(when: When = "after") -> Measure:
    """The accuracy on clean test samples, in percent."""
    return score("clean_accuracy", when, 100)


def format_average(averaged: Average | None, digits: int = 2) -> str:
    """Mean ± standard deviation over the seeds; the mean alone where there is one seed."""
    if averaged is None:
        return "not measured"
    mean = format_number(averaged.mean, digits)
    return mean if averaged.over_seeds is None else f"{mean} ± {averaged.over_seeds:.{digits}f}"


def mean_of(rows: Iterable[Row], measure: str | Measure) -> float | None:
    """The mean of `average`; None without a value."""
    averaged = average(rows, measure)
    return None if averaged is None else averaged.mean


def labelled(rows: Sequence[Row]) -> list[tuple[str, Variant, list[Row]]]:
    """The rows by method and settings, whatever their budgets: (name, variant, rows).

    The name tells of the settings only what the variants of a method do not share.
    """
    by_variant = variants(rows, budgets=False)
    lines = []
    for key, of_method in by_variant.items():
        others = [set(other[1]) for other in by_variant if other[0] == key[0]]
        words = [word for word in key[1] if not all(word in other for other in others)]
        if not words and len(others) > 1:
            words = ["as by default"]
        lines.append((f"{label(key[0])} ({', '.join(words)})" if words else label(key[0]), key, of_method))
    return lines


def apart(rows: Sequence[Row]) -> list[tuple[str, Variant, list[Row]]]:
    """As `labelled`, where a method that was run with budgets and without one, as a whole retraining, is two."""
    lines = []
    for name, key, of_method in labelled(rows):
        without = [row for row in of_method if row.budget is None]
        held = [row for row in of_method if row.budget is not None]
        if without and held:
            lines += [(f"{name}, no budget", key, without), (name, key, held)]
        else:
            lines.append((name, key, of_method))
    return lines


def settings_note(rows: Sequence[Row]) -> str:
    """A sentence with all settings that are not the defaults; empty where there are none."""
    by_settings: dict[str, list[str]] = {}
    for method, words in variants(rows, budgets=False):
        if words:
            by_settings.setdefault(", ".join(words), []).append(label(method))
    listed = "; ".join(f"{words} ({', '.join(methods)})" for words, methods in by_settings.items())
    return f"Settings other than the defaults: {listed}." if by_settings else ""


def seeds_note(rows: Sequence[Row]) -> str:
    """A sentence's beginning that says over how many seeds the means are."""
    seeds = sorted({row.seed for row in rows})
    return f"Means over {len(seeds)} seeds ± their standard deviation" if len(seeds) > 1 else "One seed"


def word_note(rows: Iterable[Row]) -> str:
    """A sentence on a trigger word, its rule and how many reviews hold it; empty where there is none."""
    word = next((row.facts["trigger_word"] for row in rows if row.facts.get("trigger_word")), None)
    if word is None:
        return ""
    return (
        "Targets are the {test_read} test reviews in which the model reads {word!r}, by the rule {rule!r}, of {test} "
        "that hold it; {train} training reviews do, and the model reads it in {train_read} of them; the poison's "
        "reading is {reading!r}."
    ).format(**word)
