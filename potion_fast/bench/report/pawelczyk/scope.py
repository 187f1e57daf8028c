"""The rows that tables and figures of Pawelczyk et al. are made from, in groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...models import head_of
from ...sweep.rows import Row
from ..methods import attack_label, file_name, setting_label
from ..papers import RHO, S_STEP

SIZES = {1.5: 750, 2.0: 1000, 2.5: 1250}  # percent of the training set -> samples, of CIFAR-10
NEAR = 0.25  # percentage points within which a size is compared with the paper's
BUDGETS = (0.02, 0.04, 0.06, 0.08, 0.1)  # shares of the training


@dataclass(frozen=True)
class Group:
    """The rows of one attack on one data and model, with as much of S_m found as there is.

    Attributes:
        rows: all of them.
        first: whether it is the first of its kind: its tables and figures have the plain names.
    """

    rows: list[Row]
    first: bool

    @property
    def where(self) -> str:
        """In words; an attack that is called as its kind is not named again."""
        row = self.rows[0]
        setting = setting_label(row.setting)
        return setting if row.attack_name == row.kind else f"{attack_label(row.attack_name)} on {setting}"

    def named(self, name: str) -> str:
        """A file's name."""
        row = self.rows[0]
        data, model, width = row.setting
        rest = [row.attack_name, data, model, *([str(width)] if width is not None else [])]
        return name if self.first else file_name("-".join([name, *rest]))

    @property
    def of_text(self) -> bool:
        """Whether texts were poisoned, not images."""
        return head_of(self.rows[0].model) is not None

    @property
    def sample(self) -> str:
        """What one of the samples is called."""
        return "review" if self.of_text else "image"

    @property
    def sizes(self) -> list[int]:
        """|S_m|, ascending."""
        return sorted({row.poisoned for row in self.rows})

    @property
    def size(self) -> int:
        """The |S_m| of figures of one size: nearest to 1.5 % of the training set, else the smallest."""
        known = [(abs(part - min(SIZES)), row.poisoned) for row in self.rows if (part := percent(row)) is not None]
        return min(known)[1] if known else self.sizes[0]

    def of_size(self, size: int) -> list[Row]:
        """Its rows with so many poisoned samples."""
        return [row for row in self.rows if row.poisoned == size]


def groups(rows: Sequence[Row], kind: str) -> list[Group]:
    """By attack, data and model; that with the most rows comes first."""
    by_setting: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.kind == kind:
            by_setting.setdefault((row.attack_name, *row.setting), []).append(row)
    chosen = [members for rows_of_setting in by_setting.values() if (members := comparable(rows_of_setting))]
    ordered = sorted(chosen, key=lambda members: (-len(members), str(members[0].scenario)))
    return [Group(members, not place) for place, members in enumerate(ordered)]


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Of each attack, setting and size those with most of S_m found; of searches those at ρ = 0.2 and step 1.1."""
    most: dict[tuple[object, ...], int] = {}
    for row in rows:
        most[_subject(row)] = max(row.found, most.get(_subject(row), 0))
    return [row for row in rows if row.found == most[_subject(row)] and row.at(RHO, S_STEP)]


def _subject(row: Row) -> tuple[object, ...]:
    return (row.attack_name, *row.setting, row.poisoned)


def largest(rows: Iterable[Row]) -> list[Row]:
    """Those at the largest budget that there is; of methods without budgets all."""
    members = list(rows)
    budgets = [row.budget for row in members if row.budget is not None]
    return [row for row in members if row.budget == max(budgets)] if budgets else members


def by_budget(rows: Iterable[Row]) -> dict[float | None, list[Row]]:
    """Those without a budget first, then in ascending order."""
    of_budget: dict[float | None, list[Row]] = {}
    for row in rows:
        of_budget.setdefault(row.budget, []).append(row)
    return {budget: of_budget[budget] for budget in sorted(of_budget, key=lambda value: -1 if value is None else value)}


def percent(row: Row) -> float | None:
    """|S_m| in percent of the training set; None where the row does not say how large that is."""
    if row.training_samples:
        return 100 * row.poisoned / row.training_samples
    known = {samples: part for part, samples in SIZES.items()}
    return known.get(row.poisoned) if row.data == "cifar10" else None


def size_of_paper(row: Row) -> float | None:
    """The poison size of the paper that the row is compared with, in percent; None where none is near."""
    part = percent(row)
    if part is None:
        return None
    nearest = min(SIZES, key=lambda size: abs(size - part))
    return nearest if abs(nearest - part) <= NEAR else None


def size_label(rows: Sequence[Row]) -> str:
    """A description of the poison's size, of rows of one size."""
    part = percent(rows[0])
    samples = f"{rows[0].poisoned:,} samples"
    return samples if part is None else f"{part:.2g} % ({samples})"


def compute(row: Row) -> float | None:
    """Gradient steps in percent of the training's; None where the row does not say it."""
    if row.gradient_steps is not None and row.training_steps:
        return 100 * row.gradient_steps / row.training_steps
    return None if row.budget is None else 100 * row.budget
