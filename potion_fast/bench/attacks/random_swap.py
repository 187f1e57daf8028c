"""Random label swap: labels shuffled among the chosen samples (Goel et al., *Corrective Machine Unlearning*, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .poison import Swap


@dataclass(frozen=True, kw_only=True)
class RandomSwap(Swap):
    """The labels of S_m, permuted among its samples: some of them keep their own, and no class grows or shrinks.

    Attributes:
        seed: of the permutation.
    """

    seed: int

    def relabel(self, labels: torch.Tensor) -> torch.Tensor:
        return labels[torch.from_numpy(np.random.default_rng(self.seed).permutation(len(labels)))]
