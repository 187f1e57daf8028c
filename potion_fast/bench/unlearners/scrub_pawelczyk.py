"""SCRUB as paper B prints it: one objective over pairs of batches, in place of two kinds of epochs (appendix C.2.6)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..training.train import Batch
from .base import Unlearned
from .divergence import divergence
from .epochs import Pawelczyk
from .finetuning import frozen_copy
from .pairs import Pairs


@dataclass(frozen=True, kw_only=True)
class ScrubPawelczyk(Pawelczyk):
    """Minimises γ · CE(retain) + w · KL(retain) − w · KL(S_f), KL = KL(teacher ‖ student), each a mean over its batch
    and without a temperature; the teacher is the model before. An iteration costs two gradient steps.

    Paper B lists α = .999, β = .001 and γ = .99, of which its objective has none. SCRUB's γ weighs the cross-entropy,
    and its weight of KL, .001 in its large experiments, is paper B's β = 1 − α: so γ and w are taken. The learning rate
    is not given: here GD's.

    gamma      γ
    kl_weight  w
    """

    name, cost = "scrub-pawelczyk", 2

    gamma: float = 0.99
    kl_weight: float = 0.001

    def unlearned(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None,
        progress: bool,
    ) -> Unlearned:
        teacher = frozen_copy(model)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            retain, labels, forget, _ = batch
            logits = student(retain)  # [B, C]
            towards, away = divergence(logits, teacher, retain), divergence(student(forget), teacher, forget)
            return self.gamma * F.cross_entropy(logits, labels) + self.kl_weight * (towards - away)

        pairs = Pairs(forget_loader, retain_loader)
        return self.trained(copy.deepcopy(model), pairs, validation_loader, progress, loss)
