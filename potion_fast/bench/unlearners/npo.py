"""NPO: the probability of what was found is pushed down against the given model's (Zhang et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...utils.copies import copy_model
from ...utils.predict import accuracy, predict
from ..training.schedules import Schedule
from ..training.train import Batch, Loss
from .base import Loaders, Unlearned
from .epochs import EpochFinetuning
from .finetuning import frozen_copy
from .registry import register_unlearner


@register_unlearner("npo")
class NPO(EpochFinetuning):
    """Minimises (2/β) · mean log(1 + (p_θ(y|x) / p_f(y|x))^β) over S_f, where f is the given model.

    *Negative Preference Optimization*, equation 3, with the settings of REM (arXiv 2505.17730), whose first step it is:
    β = 1, a fifth of the training's learning rate, momentum 0.9, weight decay 5e-4, at a constant rate, until the
    accuracy on S_f is at most γ = 0.2, 100 epochs at most. An epoch is a pass over S_f; nothing else is read.

    Attributes:
        beta: β.
        until: accuracy on S_f, with the labels it was trained with, at which the training ends; None: it never does.
    """

    lr: PositiveFloat = 0.005
    schedule: Schedule = "constant"
    epochs: PositiveInt = 100
    beta: PositiveFloat = 1.0
    until: Annotated[float, Field(ge=0, le=1)] | None = 0.2

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        return self.finetune(
            copy_model(model),
            loaders.forget,
            loaders.validation,
            progress,
            loss=negative_preference(frozen_copy(model), self.beta),
            until=None if self.until is None else accuracy_at_most(self.until, loaders.forget_evaluation),
        )


def negative_preference(given: nn.Module, beta: float) -> Loss:
    """The loss of NPO, a mean over the batch.

    Args:
        given: f, which needs no gradients.
        beta: β.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return 2 / beta * F.softplus(-beta * loss_increases(model, given, batch)).mean()

    return loss


def loss_increases(model: nn.Module, given: nn.Module, batch: Batch) -> Tensor:
    """By how much the cross-entropy of each sample is above the given model's, in nats, [B]: −log(p_θ / p_f)."""
    with torch.no_grad():
        before = F.cross_entropy(given(batch[0]), batch[1], reduction="none")
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none") - before


def accuracy_at_most(most: float, loader: Iterable[Any]) -> Callable[[nn.Module], bool]:
    """Whether a model's accuracy on a loader's samples is at most this."""
    return lambda model: accuracy(*predict(model, loader)) <= most
