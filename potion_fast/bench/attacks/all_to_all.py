"""All-to-all: a patch that moves every class to the next one (Gu et al., *BadNets*, 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from typing_extensions import override

from ...errors import DataError
from .badnet import BadNet, PatchOptions, check_patch
from .kinds import Trigger
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("all-to-all")
@dataclass(frozen=True, kw_only=True)
class AllToAll(Trigger):
    """BadNet's patch in the bottom right corner; an image of class y gets the label (y + 1) mod C.

    No class is left out of the attack success rate: none has the label already that the attack wants.

    Attributes:
        value: of the patch, in units of the normalised image.
        classes: C.
        size: side of the square in pixels.

    Raises:
        DataError: fewer than two classes, a size below 1 or a value that is not finite; when called, an image smaller
            than the patch.
    """

    class Options(PatchOptions):
        """Options of an all-to-all patch."""

        poison: Literal["all-to-all"] = "all-to-all"

        def build(self, splits: Splits, seed: int) -> AllToAll:
            """The attack with these options."""
            assert self.trigger_value is not None  # resolved
            return AllToAll(value=self.trigger_value, classes=len(splits.classes), size=self.patch_size)

    value: float
    classes: int
    size: int = 3
    target: None = None

    def __post_init__(self) -> None:
        check_patch(self.value, self.size)
        if self.classes < 2:
            raise DataError(f"the labels of {self.classes} class cannot be moved; two or more are needed")

    def __call__(
        self,
        images: torch.Tensor,  # [..., C, H, W], normalised
        ids: torch.Tensor | None = None,  # every sample gets the same patch
    ) -> torch.Tensor:  # [..., C, H, W]
        """A copy of the images with the patch in it."""
        return BadNet(value=self.value, size=self.size)(images)

    @override
    def relabel(self, labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The next class, and the first one for the last."""
        return (labels + 1) % self.classes
