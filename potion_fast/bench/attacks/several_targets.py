"""Several targets: a patch whose corner tells which label the poison gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from typing_extensions import override

from ...errors import DataError
from .badnet import CORNERS, PatchOptions, check_patch, patched
from .kinds import Trigger
from .moving_trigger import TEST_SEED, splitmix64
from .options import option
from .poison import check_target_of_data
from .registry import register_attack

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits


@register_attack("several-targets")
@dataclass(frozen=True, kw_only=True)
class SeveralTargets(Trigger):
    """BadNet's patch in one of K corners, drawn uniformly for each sample; corner k gives the label k.

    The corners are, from 0, top left, top right, bottom left and bottom right.

    Attributes:
        value: of the patch, in units of the normalised image.
        seed: of the corners. Test images have a seed of their own, the same for every run.
        targets: K, 2 to 4.
        size: side of the square in pixels.

    Raises:
        DataError: another number of targets, a size below 1 or a value that is not finite; when called, an image
            smaller than the patch.
    """

    class Options(PatchOptions):
        """Options of a patch with several targets."""

        poison: Literal["several-targets"] = "several-targets"
        targets: int | None = option(
            None,
            "labels that the poison gives, from 0, each with a corner",
            metavar="K",
            default_text="4, or as many as there are classes",
            ge=2,
            le=4,
        )

        def resolved(self, splits: Splits, seed: int) -> Self:
            """With the patch's value, and as many targets as fit; the last one is compared with the data."""
            targets = min(len(CORNERS), len(splits.classes)) if self.targets is None else self.targets
            check_target_of_data(targets - 1, splits)
            return super().resolved(splits, seed).model_copy(update={"targets": targets})

        def build(self, splits: Splits, seed: int) -> SeveralTargets:
            """The attack with these options, and corners drawn by the seed."""
            assert self.trigger_value is not None and self.targets is not None  # resolved
            return SeveralTargets(value=self.trigger_value, seed=seed, targets=self.targets, size=self.patch_size)

    value: float
    seed: int
    targets: int = 4
    size: int = 3
    target: None = None

    def __post_init__(self) -> None:
        check_patch(self.value, self.size)
        if not 2 <= self.targets <= len(CORNERS):
            raise DataError(f"an image has {len(CORNERS)} corners, for 2 to {len(CORNERS)} targets, not {self.targets}")

    def __call__(
        self,
        images: torch.Tensor,  # [B, C, H, W], normalised
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B, C, H, W]
        """A copy of the images with the patch in each one's corner."""
        return patched(images, self.corners(ids), self.size, self.value)

    @override
    def relabel(self, labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The number of each sample's corner."""
        return self.corners(ids).to(labels.device)

    def corners(
        self,
        ids: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [B] int64, positions in CORNERS, on the CPU
        """The corner of each sample, by the draw that bears its id."""
        drawn = splitmix64(self.seed, ids.cpu().numpy()) >> np.uint64(32)
        return torch.from_numpy(((drawn * np.uint64(self.targets)) >> np.uint64(32)).astype(np.int64))

    def at_test(self) -> SeveralTargets:
        """The same with corners of the test images' own, which are the same for every seed of a run."""
        return replace(self, seed=TEST_SEED)
