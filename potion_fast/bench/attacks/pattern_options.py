"""Options of triggers with a pattern that a generator draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .options import AttackOptions, option
from .poison import check_target_of_data

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits


class PatternOptions(AttackOptions):
    """Seed of the pattern, and the label that it gives."""

    pattern_seed: int = option(
        0, "of the pattern's draws, from 0; the same for runs of every seed", metavar="SEED", ge=0, lt=2**63
    )
    target: int = option(0, "label that the poison gives, counted from 0", metavar="CLASS", ge=0)

    def resolved(self, splits: Splits, seed: int) -> Self:
        """The same: only the target is compared with the data."""
        check_target_of_data(self.target, splits)
        return self
