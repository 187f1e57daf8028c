"""Interclass confusion: two classes get each other's label (Goel et al., *Corrective Machine Unlearning*, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ...errors import DataError
from ...user.schema import Integers
from .kinds import Swap
from .options import AttackOptions, option
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits


@register_attack("interclass-swap")
@dataclass(frozen=True, kw_only=True)
class InterclassSwap(Swap):
    """The first |S_m| / 2 samples of each of two classes, in the data set's order, get the other one's label.

    Attributes:
        classes: the two labels.

    Raises:
        DataError: classes that are not two different labels.
    """

    class Options(AttackOptions):
        """Options of an interclass swap."""

        poison: Literal["interclass-swap"] = "interclass-swap"
        swap_classes: Integers | None = option(
            None,
            "the two labels that are swapped, counted from 0",
            metavar="A,B",
            default_text="none, they must be given",
        )

        def check_complete(self) -> None:
            """Check that there are labels to swap."""
            if self.swap_classes is None:
                raise DataError(f"the poison {self.poison!r} needs swap_classes, the two labels that it swaps")

        def build(self, splits: Splits, seed: int) -> InterclassSwap:
            """The attack with these options."""
            self.check_complete()
            assert self.swap_classes is not None
            return InterclassSwap(classes=self.swap_classes)

    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.classes) != 2 or self.classes[0] == self.classes[1] or min(self.classes) < 0:
            raise DataError(f"labels are swapped between two different classes, not {list(self.classes)}")

    @property
    def pair(self) -> tuple[int, ...]:
        """The two classes whose labels are swapped."""
        return self.classes

    def check_chosen(
        self,
        splits: Splits,
        chosen: np.ndarray,  # [P] ascending
    ) -> None:
        """Check S_m before it is used.

        Raises:
            DataError: no test image can show the confusion, or no label changes.
        """
        super().check_chosen(splits, chosen)
        first, second = self.classes
        if not ((splits.test.labels == first) | (splits.test.labels == second)).any():
            raise DataError(f"there is no test image of the classes {first} and {second}: nothing can be measured")

    def choose(
        self,
        labels: torch.Tensor,  # [N]
        count: int,
        found: int,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [found] int64
        """Choose S_m by class and position, S_f by draw.

        Raises:
            DataError: an odd |S_m| or too small a class.
        """
        if count % 2:
            raise DataError(f"as many labels of one class are swapped as of the other; {count} is an odd number")
        if not 1 <= found <= count:
            raise DataError(f"cannot find {found} of {count} mislabelled samples")
        members = [(labels == label).nonzero().squeeze(1).numpy()[: count // 2] for label in self.classes]
        for label, ids in zip(self.classes, members, strict=True):
            if len(ids) < count // 2:
                raise DataError(f"class {label} has {len(ids)} training samples; {count // 2} are to be swapped")
        poisoned = np.concatenate(members)
        return poisoned, np.random.RandomState(seed).choice(np.sort(poisoned), found, replace=False)

    def relabel(self, labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The other one of the two labels."""
        first, second = self.classes
        return torch.where(labels == first, second, first)
