"""SCRUB as Pawelczyk et al. print it: one objective over pairs of batches, not two kinds of epochs (appendix C.2.6)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...utils.copies import copy_model
from ..training.train import Batch
from .base import Loaders, Unlearned
from .epochs import PawelczykFinetuning
from .finetuning import frozen_copy
from .paired_batches import PairedBatches
from .registry import register_unlearner
from .scrub import divergence


@register_unlearner("scrub-pawelczyk")
class ScrubPawelczyk(PawelczykFinetuning):
    """Minimises γ · CE(retain) + w · KL(retain) − w · KL(S_f), each a mean over its batch.

    KL = KL(teacher ‖ student), without a temperature; the teacher is the model before. An iteration costs two gradient
    steps.

    Pawelczyk et al. list α = .999, β = .001 and γ = .99, of which their objective has none. SCRUB's γ weighs the
    cross-entropy, and its weight of KL, .001 in its large experiments, is their β = 1 − α: so γ and w are taken. The
    learning rate is not given: here GD's.

    Attributes:
        gamma: γ.
        kl_weight: w.
    """

    cost: ClassVar[int] = 2

    gamma: NonNegativeFloat = 0.99
    kl_weight: NonNegativeFloat = 0.001

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        teacher = frozen_copy(model)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            retain, labels, forget, _ = batch
            logits = student(retain)  # [B, C]
            towards, away = divergence(logits, teacher, retain), divergence(student(forget), teacher, forget)
            return self.gamma * F.cross_entropy(logits, labels) + self.kl_weight * (towards - away)

        pairs = PairedBatches(loaders.forget, loaders.retain)
        return self.finetune(copy_model(model), pairs, loaders.validation, progress, loss=loss)
