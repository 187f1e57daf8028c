"""What is read from rows, averaged and put in words, for the tables and figures of the second exam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..averages import Average, average
from ..formats import number
from ..methods import Variant, label, variants
from ..rows import Row

Measure = Callable[[Row], float | None]


def score(name: str, when: str = "", scale: float = 1) -> Measure:
    """A metric by its name: after unlearning, or "before_" it, or of the "reference_" model."""

    def read(row: Row) -> float | None:
        found: Mapping[str, float | None] = getattr(row, f"{when}scores") or {}
        value = found.get(name)
        return None if value is None else scale * value

    return read


def percent_of(name: str) -> Measure:
    """A field that is a fraction."""

    def read(row: Row) -> float | None:
        value: float | None = getattr(row, name)
        return None if value is None else 100 * value

    return read


def told(one: Average | None, digits: int = 2) -> str:
    """mean ± standard deviation over the seeds; the mean alone where there is one seed."""
    if one is None:
        return "not measured"
    mean = number(one.mean, digits)
    return mean if one.over_seeds is None else f"{mean} ± {one.over_seeds:.{digits}f}"


def mean_of(rows: Iterable[Row], measure: str | Measure) -> float | None:
    one = average(rows, measure)
    return None if one is None else one.mean


def labelled(rows: Sequence[Row]) -> list[tuple[str, Variant, list[Row]]]:
    """The rows by method and settings, whatever their budgets: (name, variant, rows).

    The name tells of the settings only what the variants of a method do not share.
    """
    found = variants(rows, budgets=False)
    made = []
    for key, some in found.items():
        others = [set(other[1]) for other in found if other[0] == key[0]]
        words = [word for word in key[1] if not all(word in each for each in others)]
        if not words and len(others) > 1:
            words = ["as by default"]
        made.append((f"{label(key[0])} ({', '.join(words)})" if words else label(key[0]), key, some))
    return made


def apart(rows: Sequence[Row]) -> list[tuple[str, Variant, list[Row]]]:
    """As `labelled`, where a method that was run with budgets and without one, as a whole retraining, is two."""
    made = []
    for name, key, some in labelled(rows):
        without = [row for row in some if row.budget is None]
        held = [row for row in some if row.budget is not None]
        if without and held:
            made += [(f"{name}, no budget", key, without), (name, key, held)]
        else:
            made.append((name, key, some))
    return made


def settings_note(rows: Sequence[Row]) -> str:
    """A sentence with all settings that are not the defaults; empty where there are none."""
    said: dict[str, list[str]] = {}
    for method, words in variants(rows, budgets=False):
        if words:
            said.setdefault(", ".join(words), []).append(label(method))
    listed = "; ".join(f"{words} ({', '.join(methods)})" for words, methods in said.items())
    return f"Settings other than the defaults: {listed}." if said else ""


def seeds_note(rows: Sequence[Row]) -> str:
    seeds = sorted({row.seed for row in rows})
    return f"Means over {len(seeds)} seeds ± their standard deviation" if len(seeds) > 1 else "One seed"


def word_note(rows: Iterable[Row]) -> str:
    """A sentence on a trigger word, its rule and how many reviews hold it; empty where there is none."""
    told = next((row.extra["trigger_word"] for row in rows if row.extra.get("trigger_word")), None)
    if told is None:
        return ""
    return (
        "Targets are the {test_read} test reviews in which the model reads {word!r}, by the rule {rule!r}, of {test} "
        "that hold it; {train} training reviews do, and the model reads it in {train_read} of them; the poison's "
        "reading is {reading!r}."
    ).format(**told)
