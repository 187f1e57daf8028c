"""SCRUB as its authors run it: epochs away from the model on S_f, and epochs towards it (Kurmanji et al., 2023)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DataError
from ..training.schedules import Schedule
from ..training.train import Batch
from .base import Unlearned
from .divergence import divergence
from .epochs import InEpochs
from .finetuning import frozen_copy


@dataclass(frozen=True, kw_only=True)
class ScrubKurmanji(InEpochs):
    """Each of the first `msteps` epochs begins with a pass over S_f that minimises −KL_T alone; every epoch ends with
    one over the retain set that minimises γ · CE + α · KL_T.

    KL_T = T² · KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the batch; the teacher is the model before.

    Defaults are those of the authors' large experiments, which take batches of 32 from S_f and of 128 from the retain
    set; their learning rate falls after epochs 3, 5 and 9 only, and so never within their 3 epochs.

    msteps       epochs that have a pass over S_f
    temperature  T
    gamma        γ
    alpha        α
    """

    name = "scrub-kurmanji"

    lr: float = 5e-4
    schedule: Schedule = "constant"
    epochs: int = 3
    msteps: int = 2
    temperature: float = 4.0
    gamma: float = 0.99
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
        passes = Passes(forget_loader, retain_loader, self.msteps)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            logits = student(batch[0])  # [B, C]
            away = self.temperature**2 * divergence(logits, teacher, batch[0], self.temperature)
            if passes.maximising:
                return -away
            return self.gamma * F.cross_entropy(logits, batch[1]) + self.alpha * away

        return self.trained(copy.deepcopy(model), passes, validation_loader, progress, loss)

    def in_epochs(self, loader: Iterable[Any]) -> int:
        assert isinstance(loader, Passes)
        return loader.batches(self.epochs)


class Passes:
    """A loader whose passes are over S_f and over the retain set in turn, `msteps` times, then over the retain set.

    maximising  whether this pass is over S_f
    """

    def __init__(self, forget_loader: Iterable[Any], retain_loader: Iterable[Any], msteps: int) -> None:
        self.forget_loader, self.retain_loader, self.left = forget_loader, retain_loader, msteps
        self.maximising = False

    def __iter__(self) -> Iterator[Any]:
        self.maximising = not self.maximising and self.left > 0
        self.left -= self.maximising
        return iter(self.forget_loader if self.maximising else self.retain_loader)

    def batches(self, epochs: int) -> int:
        """Of so many epochs, each with its pass over S_f where it has one."""
        if not isinstance(self.forget_loader, Sized) or not isinstance(self.retain_loader, Sized):
            raise DataError("a loader does not know its length in batches; give iterations or a budget")
        return min(epochs, self.left) * len(self.forget_loader) + epochs * len(self.retain_loader)
