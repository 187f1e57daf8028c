"""No unlearning: the model as it is, to compare with."""

from __future__ import annotations

from torch import nn
from typing_extensions import override

from ...utils.copies import copy_model
from .base import Loaders, Unlearned, Unlearner
from .registry import register_unlearner


@register_unlearner("none")
class NoUnlearning(Unlearner):
    """The base model: the row "None" of the *Potion* paper's tables.

    The class `No_unlearning` of the public code is another thing: it inherits the training loop, and so is CF with
    k = -1. What can be set here is what all unlearners share, and changes nothing.
    """

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        return Unlearned(copy_model(model).eval(), self.name)
