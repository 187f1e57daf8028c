"""Random label swap: labels shuffled among the chosen samples (Goel et al., *Corrective Machine Unlearning*, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from .kinds import Swap
from .options import AttackOptions
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("random-swap")
@dataclass(frozen=True, kw_only=True)
class RandomSwap(Swap):
    """The labels of S_m, permuted among its samples: some of them keep their own, and no class grows or shrinks.

    Attributes:
        seed: of the permutation.
    """

    class Options(AttackOptions):
        """A random swap has no options."""

        poison: Literal["random-swap"] = "random-swap"

        def build(self, splits: Splits, seed: int) -> RandomSwap:
            """The attack, with a permutation drawn by the seed."""
            return RandomSwap(seed=seed)

    seed: int

    def relabel(self, labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The labels, permuted."""
        return labels[torch.from_numpy(np.random.default_rng(self.seed).permutation(len(labels)))]
