"""Moving trigger: a patch in one of the four corners, drawn for each sample (Abad et al., 2022; Potion, figure 12)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from .badnet import TargetedPatchOptions, check_patch, patched
from .kinds import Trigger
from .poison import check_target
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits

TEST_SEED = 2**32  # above every seed of a run


@register_attack("moving-trigger")
@dataclass(frozen=True, kw_only=True)
class MovingTrigger(Trigger):
    """BadNet's patch in a corner that is drawn once for each sample, uniformly of the four.

    Attributes:
        value: in units of the normalised image; `potion_fast.bench.data.max_value` gives the experiments' choice.
        size: side of the square in pixels.
        target: label of the poisoned training samples.
        seed: of the corners. Test images have a seed of their own, the same for every run.

    Raises:
        DataError: a size below 1, a negative target or a value that is not finite; when called, an image smaller than
            the patch.
    """

    class Options(TargetedPatchOptions):
        """Options of a moving trigger."""

        poison: Literal["moving-trigger"] = "moving-trigger"

        def build(self, splits: Splits, seed: int) -> MovingTrigger:
            """The attack with these options, and corners drawn by the seed."""
            assert self.trigger_value is not None  # resolved
            return MovingTrigger(value=self.trigger_value, size=self.patch_size, target=self.target, seed=seed)

    value: float
    seed: int
    size: int = 3
    target: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        check_patch(self.value, self.size)

    def __call__(
        self,
        images: torch.Tensor,  # [B, C, H, W], normalised
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B, C, H, W]
        """A copy of the images with the patch in each one's corner."""
        return patched(images, self.corners(ids), self.size, self.value)

    def corners(
        self,
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B] int64, positions in CORNERS, on the CPU
        """The corner of each sample: two bits of the draw that bears its id."""
        return torch.from_numpy((splitmix64(self.seed, ids.cpu().numpy()) >> np.uint64(62)).astype(np.int64))

    def at_test(self) -> MovingTrigger:
        """The same with corners of the test images' own, which are the same for every seed of a run."""
        return replace(self, seed=TEST_SEED)


def splitmix64(
    seed: int,
    ids: np.ndarray,  # [B] int64, from 0
) -> np.ndarray:  # [B] uint64
    """Draws number `ids` of the generator SplitMix64 (Steele et al., 2014): each by itself, without those before it."""
    state = np.uint64(seed) + (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
