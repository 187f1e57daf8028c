"""GA: gradient ascent on what was found; Pawelczyk et al. call it NGP too (appendix C.2.3)."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor, nn
from typing_extensions import override

from ...utils.copies import copy_model
from ..training.train import Batch, cross_entropy
from .base import Loaders, Unlearned
from .epochs import PawelczykFinetuning
from .registry import register_unlearner


@register_unlearner("ga")
class GA(PawelczykFinetuning):
    """θ ← θ + η g, where g is the gradient of a batch of S_f; the retain set is not read, and epochs are those of S_f.

    The loss that is minimised is −CE, which has no lower bound: with many steps the model is lost, as in
    Pawelczyk et al. Its rates are 1e-5 and 5e-6.
    """

    lr: PositiveFloat = 1e-5

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        return self.finetune(copy_model(model), loaders.forget, loaders.validation, progress, loss=ascent)


def ascent(model: nn.Module, batch: Batch) -> Tensor:
    """−CE, a mean over the batch."""
    return -cross_entropy(model, batch)
