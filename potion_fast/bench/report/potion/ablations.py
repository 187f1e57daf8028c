"""The ablations of Potion's section 5.2, from the rows of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...sweep.rows import Row
from ..averages import Average, average, common
from ..methods import plain
from ..papers import RHO, S_STEP
from ..table import PAPER, Column, Table, TableLine, format_number
from .paper_values import of_paper, printed
from .scope import choose
from .tables import FOUND, MEASURES, TABLES

TITLE = "Ablations of section 5.2"
COLUMNS = (
    Column("question", "text", wrap=True),
    Column("poison healed, relative gain, %"),
    PAPER,
    Column("damage, % of the other's"),
    PAPER,
    Column("pairs"),
)
NOTES = (
    "Relative gain: 100 · (healed of the first / healed of the second − 1); damage: 100 · first / second, below 100 is "
    "less damage. Over the scenarios and seeds that both methods have, more than one sample found, ρ = 0.2, step 1.1. "
    "Beside what the paper's text prints stands what its table 1 gives, where they differ.",
    "The paper prints a damage of 46.13 % for PTN search against the grid on SSD. Its table 1 gives 66.20 % for that, "
    "and 46.13 % for PTN-LF against the grid.",
)


@dataclass(frozen=True)
class Ablation:
    """One method against another.

    Attributes:
        question: that it answers.
        ours, other: the methods.
        healed_gain: relative gain in poison healed, in percent; None without rows, or a number to divide by.
        damage_share: damage as a share of the other's, in percent; None as above.
        pairs: scenarios and seeds that both methods have.
    """

    question: str
    ours: str
    other: str
    healed_gain: float | None
    damage_share: float | None
    pairs: int


ABLATIONS = (
    ("PTN search instead of a grid of settings, both on SSD's importances", "ptn-ssd", "ssd-goel"),
    ("XLF instead of LF, both with PTN search", "ptn-xlf", "ptn-lf"),
    ("PTN-LF instead of the grid on SSD", "ptn-lf", "ssd-goel"),
    ("both together: PTN-XLF instead of the grid on SSD", "ptn-xlf", "ssd-goel"),
)


def ablations(rows: Sequence[Row]) -> list[Ablation]:
    """Over table 1's rows with more than one sample found, at the scenarios and seeds that both methods have."""
    chosen = [row for row in plain(choose(rows, TABLES[1].scope).rows) if row.at(RHO, S_STEP) and not row.one_shot]
    comparisons = []
    for question, ours, other in ABLATIONS:
        own, others = common(*([row for row in chosen if row.method == name] for name in (ours, other)))
        healed = [average(of_method, "poison_healed") for of_method in (own, others)]
        damage = [average(of_method, "model_damage") for of_method in (own, others)]
        comparisons.append(Ablation(question, ours, other, _gain(*healed), _share(*damage), len(own)))
    return comparisons


def printed_ablation(ours: str, other: str) -> tuple[float | None, float | None]:
    """What the paper's text prints."""
    values = {value.measure: value.mean for value in printed() if value.method == f"{ours}/{other}"}
    return values.get("healed_gain"), values.get("damage_share")


def recomputed(ours: str, other: str) -> tuple[float, float]:
    """The same from the values of the paper's table 1."""
    healed, damage = ([_of_table_1(name, measure) for name in (ours, other)] for measure in list(MEASURES)[:2])
    return 100 * (healed[0] / healed[1] - 1), 100 * damage[0] / damage[1]


def _of_table_1(method: str, measure: str) -> float:
    value = of_paper("table 1", FOUND, method, measure)
    assert value is not None  # paper_values.csv is this package's own
    return value.mean


def _gain(own: Average | None, others: Average | None) -> float | None:
    return None if own is None or others is None or others.mean == 0 else 100 * (own.mean / others.mean - 1)


def _share(own: Average | None, others: Average | None) -> float | None:
    return None if own is None or others is None or others.mean == 0 else 100 * own.mean / others.mean


def ablation_table(comparisons: Sequence[Ablation]) -> Table:
    """All of them as a table."""
    lines = [TableLine(ablation.question, _texts(ablation)) for ablation in comparisons]
    return Table(
        "ablations", TITLE, COLUMNS, lines, notes=NOTES, records=[_record(ablation) for ablation in comparisons]
    )


def _texts(ablation: Ablation) -> list[str]:
    texts = [ablation.question]
    of_text = zip(
        printed_ablation(ablation.ours, ablation.other), recomputed(ablation.ours, ablation.other), strict=True
    )
    for value, (text, table) in zip((ablation.healed_gain, ablation.damage_share), of_text, strict=True):
        texts.append(
            "no rows" if not ablation.pairs else "no damage to compare" if value is None else format_number(value)
        )
        from_table = f"table 1: {format_number(table)}"
        same = text is not None and abs(text - table) < 0.01
        texts.append(
            from_table if text is None else format_number(text) if same else f"{format_number(text)}; {from_table}"
        )
    return [*texts, str(ablation.pairs)]


def _record(ablation: Ablation) -> dict[str, object]:
    paper_gain, paper_share = printed_ablation(ablation.ours, ablation.other)
    table_gain, table_share = recomputed(ablation.ours, ablation.other)
    return {
        "ours": ablation.ours,
        "other": ablation.other,
        "healed_gain": ablation.healed_gain,
        "damage_share": ablation.damage_share,
        "pairs": ablation.pairs,
        "paper_healed_gain": paper_gain,
        "paper_damage_share": paper_share,
        "table1_healed_gain": table_gain,
        "table1_damage_share": table_share,
    }
