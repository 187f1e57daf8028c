"""BadNet: a small patch of one value in a corner (Gu et al., *BadNets*, 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ...errors import DataError
from ...utils.did_you_mean import choices_for
from ..data import max_value
from .kinds import Trigger
from .options import AttackOptions, option
from .poison import check_target, check_target_of_data
from .registry import register_attack

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..data import Splits

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


class PatchOptions(AttackOptions):
    """Options of a patch of one value in images."""

    patch_size: int = option(3, "side of the patch", metavar="PIXELS", ge=1)
    trigger_value: float | None = option(
        None,
        "value of the patch, in units of the normalised image",
        metavar="X",
        default_text="the largest of the training images",
    )

    def resolved(self, splits: Splits, seed: int) -> Self:
        """With the largest value of the training images where no other is given."""
        if self.trigger_value is not None:
            return self
        return self.model_copy(update={"trigger_value": max_value(splits.train, splits.mean, splits.std)})


class TargetedPatchOptions(PatchOptions):
    """Options of a patch that gives one label."""

    target: int = option(0, "label that the poison gives, counted from 0", metavar="CLASS", ge=0)

    def resolved(self, splits: Splits, seed: int) -> Self:
        """The same with the patch's value, and the target compared with the data."""
        check_target_of_data(self.target, splits)
        return super().resolved(splits, seed)


@register_attack("badnet")
@dataclass(frozen=True, kw_only=True)
class BadNet(Trigger):
    """Overwrites a square in one corner, flush with both edges, with one value for all channels.

    Attributes:
        value: in units of the normalised image; `potion_fast.bench.data.max_value` gives the experiments' choice.
        size: side of the square in pixels.
        corner: "top-left", "top-right", "bottom-left" or "bottom-right".
        target: label of the poisoned training samples.

    Raises:
        DataError: an unknown corner, a size below 1, a negative target or a value that is not finite; when called, an
            image smaller than the patch.
    """

    class Options(TargetedPatchOptions):
        """Options of a BadNet."""

        poison: Literal["badnet"] = "badnet"
        corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = option(
            "bottom-right", "corner of the patch", metavar="NAME"
        )

        def build(self, splits: Splits, seed: int) -> BadNet:
            """The attack with these options."""
            assert self.trigger_value is not None  # resolved
            return BadNet(value=self.trigger_value, size=self.patch_size, corner=self.corner, target=self.target)

    value: float
    size: int = 3
    corner: str = "bottom-right"
    target: int = 0

    def __post_init__(self) -> None:
        if self.corner not in CORNERS:
            raise DataError(f"unknown corner {self.corner!r}; choose one of {choices_for(self.corner, CORNERS)}")
        check_target(self.target)
        check_patch(self.value, self.size)

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
        ids: torch.Tensor | None = None,  # every sample gets the same patch
    ) -> torch.Tensor:  # [..., C, H, W]
        """A copy of the images with the patch in it."""
        rows, columns = place(self.corner, self.size, images)
        triggered = images.clone()
        triggered[..., rows, columns] = self.value
        return triggered


def check_patch(value: float, size: int) -> None:
    """Check the options of a patch.

    Raises:
        DataError: a size below 1 or a value that is not finite.
    """
    if size < 1 or not math.isfinite(value):
        raise DataError(f"a patch needs size >= 1 and a finite value; got size {size}, value {value}")


def place(
    corner: str,
    size: int,
    images: torch.Tensor,  # [..., H, W]
) -> tuple[slice, slice]:
    """Rows and columns of a square in a corner.

    Raises:
        DataError: the images are smaller.
    """
    height, width = images.shape[-2:]
    if size > min(height, width):
        raise DataError(f"a patch of {size}x{size} pixels does not fit images of {height}x{width}")
    vertical, horizontal = corner.split("-")
    rows = slice(0, size) if vertical == "top" else slice(height - size, height)
    columns = slice(0, size) if horizontal == "left" else slice(width - size, width)
    return rows, columns


def patched(
    images: torch.Tensor,  # [B, C, H, W]
    corners: torch.Tensor,  # [B] int64, positions in CORNERS, on the CPU
    size: int,
    value: float,
) -> torch.Tensor:  # [B, C, H, W]
    """A copy of the images with a square of one value in the corner of each.

    Raises:
        DataError: the images are smaller than the square.
    """
    triggered = images.clone()
    for number, corner in enumerate(CORNERS):
        rows, columns = place(corner, size, images)
        there = (corners == number).nonzero().squeeze(1)  # found on the CPU: a GPU is not waited for
        triggered[there.to(images.device), :, rows, columns] = value
    return triggered
