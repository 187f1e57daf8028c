"""SCRUB in Goel et al.'s form: away from the model on S_f, towards it on the retain set."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...utils.copies import copy_model
from ..training.train import Batch
from .base import Loaders, Unlearned
from .finetuning import Finetuning, frozen_copy
from .registry import register_unlearner
from .scrub import AlternatingPasses, divergence


@register_unlearner("scrub-goel")
class ScrubGoel(Finetuning):
    """Epochs that minimise CE + α · KL_T on the retain set, and the first ones maximise it on S_f before.

    The epochs that begin within the first `msteps` iterations have one over S_f before them, which maximises the same
    sum, its cross-entropy included (the authors of SCRUB negate KL_T alone). As an epoch of the retain set counts too,
    100 iterations are two epochs over S_f at CIFAR's batches of 512.

    KL_T = T² · KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the batch; the teacher is the model before.

    The negated sum has no lower bound: with many steps over S_f or a high rate the training diverges, a ModelError.

    Attributes:
        msteps: iterations within which an epoch over S_f may begin.
        temperature: T.
        alpha: α; the public code's experiments take .001, .01, .05, .1, .5, 1, 5 and 10.
    """

    lr: PositiveFloat = 0.0025
    msteps: NonNegativeInt = 100
    temperature: PositiveFloat = 4.0
    alpha: NonNegativeFloat = 0.001

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        teacher = frozen_copy(model)
        passes = AlternatingPasses(loaders.forget, loaders.retain, within=self.msteps)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            value = scrub_loss(student, teacher, batch, self.alpha, self.temperature)
            return -value if passes.maximising else value

        return self.finetune(copy_model(model), passes, loaders.validation, progress, loss=loss)


def scrub_loss(student: nn.Module, teacher: nn.Module, batch: Batch, alpha: float, temperature: float) -> Tensor:
    """CE + α · T² · KL(teacher ‖ student), a mean over the batch."""
    logits = student(batch[0])  # [B, C]
    away = divergence(logits, teacher, batch[0], temperature)
    return F.cross_entropy(logits, batch[1]) + alpha * temperature**2 * away
