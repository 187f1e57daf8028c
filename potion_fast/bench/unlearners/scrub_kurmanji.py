"""SCRUB as its authors run it: epochs away from the model on S_f, and epochs towards it (Kurmanji et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...utils.copies import copy_model
from ..training.schedules import Schedule
from ..training.train import Batch
from .base import Loaders, Unlearned
from .epochs import EpochFinetuning
from .finetuning import frozen_copy
from .registry import register_unlearner
from .scrub import AlternatingPasses, divergence


@register_unlearner("scrub-kurmanji")
class ScrubKurmanji(EpochFinetuning):
    """Epochs that minimise γ · CE + α · KL_T on the retain set, and the first `msteps` −KL_T on S_f before.

    A pass over S_f minimises −KL_T alone.

    KL_T = T² · KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the batch; the teacher is the model before.

    Defaults are those of the authors' large experiments, which take batches of 32 from S_f and of 128 from the retain
    set; their learning rate falls after epochs 3, 5 and 9 only, and so never within their 3 epochs.

    Attributes:
        msteps: epochs that have a pass over S_f.
        temperature: T.
        gamma: γ.
        alpha: α.
    """

    lr: PositiveFloat = 5e-4
    schedule: Schedule = "constant"
    epochs: PositiveInt = 3
    msteps: NonNegativeInt = 2
    temperature: PositiveFloat = 4.0
    gamma: NonNegativeFloat = 0.99
    alpha: NonNegativeFloat = 0.001

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        teacher = frozen_copy(model)
        passes = AlternatingPasses(loaders.forget, loaders.retain, forget_passes=self.msteps)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            logits = student(batch[0])  # [B, C]
            away = self.temperature**2 * divergence(logits, teacher, batch[0], self.temperature)
            if passes.maximising:
                return -away
            return self.gamma * F.cross_entropy(logits, batch[1]) + self.alpha * away

        return self.finetune(copy_model(model), passes, loaders.validation, progress, loss=loss)

    @override
    def iterations_of_epochs(self, loader: Iterable[Any]) -> int:
        assert isinstance(loader, AlternatingPasses)
        return loader.iterations(self.epochs)
