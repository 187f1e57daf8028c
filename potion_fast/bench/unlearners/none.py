"""No unlearning: the model as it is, to compare with."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .base import Unlearned, Unlearner


@dataclass(frozen=True, kw_only=True)
class NoUnlearning(Unlearner):
    """The base model: the row "None" of paper A's tables.

    The class `No_unlearning` of the public code is another thing: it inherits the training loop, and so is CF with
    k = -1. What can be set here is what all unlearners share, and changes nothing.
    """

    name = "none"

    def __call__(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        *,
        evaluation_loader: Iterable[Any] | None = None,
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        return Unlearned(copy.deepcopy(model).eval(), self.name)
