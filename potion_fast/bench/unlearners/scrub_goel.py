"""SCRUB in Goel et al.'s form: away from the model on S_f, towards it on the retain set."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..training.train import Batch
from .base import Unlearned
from .divergence import divergence
from .finetuning import Trained, frozen_copy


@dataclass(frozen=True, kw_only=True)
class ScrubGoel(Trained):
    """Epochs that minimise CE + α · KL_T on the retain set, and before those that begin within the first `msteps`
    iterations one over S_f that maximises the same sum, its cross-entropy included (the authors of SCRUB negate KL_T
    alone). As an epoch of the retain set counts too, 100 iterations are two epochs over S_f at CIFAR's batches of 512.

    KL_T = T² · KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the batch; the teacher is the model before.

    The negated sum has no lower bound: with many steps over S_f or a high rate the training diverges, a ModelError.

    msteps       iterations within which an epoch over S_f may begin
    temperature  T
    alpha        α; the public code's experiments take .001, .01, .05, .1, .5, 1, 5 and 10
    """

    name = "scrub-goel"

    lr: float = 0.0025
    msteps: int = 100
    temperature: float = 4.0
    alpha: float = 0.001

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        teacher = frozen_copy(model)
        phases = Phases(forget_loader, retain_loader, self.msteps)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            value = scrub_loss(student, teacher, batch, self.alpha, self.temperature)
            return -value if phases.maximising else value

        return self.trained(copy.deepcopy(model), phases, validation_loader, progress, loss)


class Phases:
    """A loader whose passes alternate: over S_f if fewer than `msteps` batches were given so far, over the retain set.

    maximising  whether this pass is over S_f
    """

    def __init__(self, forget_loader: Iterable[Any], retain_loader: Iterable[Any], msteps: int) -> None:
        self.forget_loader, self.retain_loader, self.msteps = forget_loader, retain_loader, msteps
        self.given, self.maximising = 0, False

    def __iter__(self) -> Iterator[Any]:
        self.maximising = not self.maximising and self.given < self.msteps
        for batch in self.forget_loader if self.maximising else self.retain_loader:
            self.given += 1
            yield batch


def scrub_loss(student: nn.Module, teacher: nn.Module, batch: Batch, alpha: float, temperature: float) -> Tensor:
    """CE + α · T² · KL(teacher ‖ student), a mean over the batch."""
    logits = student(batch[0])  # [B, C]
    away = divergence(logits, teacher, batch[0], temperature)
    return F.cross_entropy(logits, batch[1]) + alpha * temperature**2 * away
