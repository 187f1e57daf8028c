"""Gaussian poison: independent noise on each poisoned image, stored (Pawelczyk et al., 2024, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..data.text import TextSplits
from .kinds import Noise
from .options import AttackOptions, option
from .perturbation import Perturbations
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("gaussian")
@dataclass(frozen=True, kw_only=True)
class Gaussian(Noise):
    """x + xi with xi ~ N(0, variance I), drawn once for each sample (*Machine Unlearning Fails*, algorithm 4).

    The paper's value for CIFAR-10 is a variance, as its algorithms say, not a standard deviation, as a caption does; it
    does not say in which units. Here they are those of the normalised image, and of text those of the tokens'
    embeddings, where the paper's variance is 0.1.

    Attributes:
        variance: of each pixel's noise, in squared units of the normalised image or of the embedding.

    Raises:
        DataError: a variance that is not above 0 and finite; see also `Perturbation`.
    """

    class Options(AttackOptions):
        """Options of Gaussian noise."""

        poison: Literal["gaussian"] = "gaussian"
        variance: float = option(
            0.32,
            "of the noise, in squared units of the normalised image or of the embedding",
            metavar="X",
            gt=0,
        )

        def build(self, splits: Splits, seed: int) -> Gaussian:
            """The attack with these options; its noise is drawn later."""
            return Gaussian(variance=self.variance)

    modalities = ("image", "text")
    embeddings = True
    variance: float = 0.32

    def __post_init__(self) -> None:
        if not 0 < self.variance < math.inf:
            raise DataError(f"the noise needs a variance above 0, not {self.variance}")

    def draw(
        self,
        ids: Tensor | Sequence[int],  # [P], in any order
        shape: Sequence[int],
        seed: int,
        *,
        tokens: bool = False,
    ) -> Perturbations:
        """The noise of these samples; a sample's own depends on its id and the seed alone, not on the others.

        Args:
            ids: of the samples.
            shape: (C, H, W) of an image, or (L, 1 + D) of text.
            seed: from 0, below 2^64.
            tokens: the first column holds token ids, to which no noise is added.
        """
        ordered = torch.as_tensor(ids, dtype=torch.int64).sort().values
        values = torch.empty(len(ordered), *shape, dtype=torch.float32)  # [P, ...]
        for row, sample in zip(values, ordered.tolist(), strict=True):
            # Keys of a Philox generator: no two samples share a stream. torch's CPU generator has only 2^32 seeds.
            stream = np.random.Generator(np.random.Philox(key=np.array([seed, sample], dtype=np.uint64)))
            row.copy_(torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32)))
        values *= math.sqrt(self.variance)
        if tokens:
            values[..., 0] = 0
        return Perturbations(ordered, values, facts={"variance": self.variance, "seed": seed})

    def preview_lines(self, facts: Mapping[str, Any]) -> list[str]:
        """A description of the noise."""
        return [f"noise of variance {self.variance:g} is added to the embedding of every token that is shown"]

    def check_table(
        self,
        table: Perturbations,
        splits: Splits,
        poisoned: np.ndarray,  # [P] ascending
    ) -> None:
        """Check that a table is this poison's.

        Raises:
            DataError: it is another's, or holds noise of another variance.
        """
        super().check_table(table, splits, poisoned)
        if table.facts.get("variance") != self.variance:
            raise DataError(f"holds noise of variance {table.facts.get('variance')}, not {self.variance}")

    def _new_table(self, splits: Splits, poisoned: np.ndarray, seed: int, left_out: bool) -> Perturbations:
        shape, tokens = splits.sample().shape[1:], isinstance(splits, TextSplits)
        return self.draw(poisoned.tolist(), shape, seed, tokens=tokens)

    def _how_to_get_them(self) -> str:
        return "draw them (Gaussian.draw)"
