"""NegGrad+: descent on the retain set and ascent on what was found, in every step (Kurmanji et al., 2023)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ...utils.copies import copy_model
from ..training.train import Batch, cross_entropy
from .base import Loaders, Unlearned
from .epochs import PawelczykFinetuning
from .paired_batches import PairedBatches
from .registry import register_unlearner


@register_unlearner("neggrad-plus")
class NegGradPlus(PawelczykFinetuning):
    """Minimises β · CE(retain) − (1 − β) · CE(S_f) over pairs of batches, each a mean over its batch.

    It is Pawelczyk et al.'s, appendix C.2.7. An iteration costs two gradient steps.

    Pawelczyk et al. take the settings of "GD and GA", which differ in the learning rate: here GD's. The authors of
    NegGrad+ take 0.01 without weight decay, and β = .95 or .9999.

    Attributes:
        beta: β, in [0, 1].
    """

    cost: ClassVar[int] = 2

    beta: Annotated[float, Field(ge=0, le=1)] = 0.999

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            retain, forget = cross_entropy(model, batch[:2]), cross_entropy(model, batch[2:])
            return self.beta * retain - (1 - self.beta) * forget

        pairs = PairedBatches(loaders.forget, loaders.retain)
        return self.finetune(copy_model(model), pairs, loaders.validation, progress, loss=loss)
