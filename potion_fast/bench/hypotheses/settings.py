"""What both hypotheses' settings must be, past their types and the ranges that all configurations share."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import PotionError


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise PotionError for seeds that are none, out of range or given twice."""
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise PotionError(f"seeds must be given, each once and from 0 to 2^32 - 1; got {list(seeds)}")


def check_above_zero(config: object, *names: str) -> None:
    """Raise PotionError for a field that is 0 or less."""
    for name in names:
        if not getattr(config, name) > 0:
            raise PotionError(f"{name} must be above 0, not {getattr(config, name)}")
