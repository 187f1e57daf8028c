"""Exact unlearning (EU): training again, from the beginning, without what was found."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import nn
from typing_extensions import override

from ..training.train import Loss, cross_entropy
from .base import Loaders, Unlearned
from .finetuning import FreshStart
from .registry import register_unlearner


@register_unlearner("eu")
class EU(FreshStart):
    """An untrained model, trained on the retain set with the settings of the training: the public code's defaults.

    Attributes:
        loss: what the training minimised, see `train`.
    """

    iterations: PositiveInt = 4000
    loss: Loss = cross_entropy

    @override
    def prepare(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return self.untrained(model), None

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        model, only = self.prepare(model)
        return self.finetune(model, loaders.retain, loaders.validation, progress, loss=self.loss, only=only)
