"""The seeds of both hypotheses: their field, and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import PotionError
from ...user.schema import SEEDS, setting


def seeds_field() -> Any:
    """The field of the seeds.

    Of hypothesis 1 each has one attack of each kind and one random set; of hypothesis 2 one initialisation of the
    poisons and one subset, and the set itself is of the first.
    """
    return setting((0, 1, 2, 3, 4), "one measurement for each", metavar="N", default_text="0 to 4", many=True)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise PotionError for seeds that are none, out of range or given twice."""
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < SEEDS for seed in seeds):
        raise PotionError(f"seeds must be given, each once and from 0 to 2^32 - 1; got {list(seeds)}")
