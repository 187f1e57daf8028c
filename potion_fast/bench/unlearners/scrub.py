"""Parts that the forms of SCRUB share (Kurmanji et al., 2023): the divergence, and alternating passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DataError


def divergence(
    logits: Tensor,  # [B, C]
    teacher: nn.Module,
    inputs: Tensor,  # [B, ...]
    temperature: float = 1.0,
) -> Tensor:  # []
    """KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the batch; the factor T² is the caller's.

    Args:
        logits: the student's, [B, C].
        teacher: a model that needs no gradients.
        inputs: what the student saw, [B, ...].
        temperature: T.

    Returns:
        The divergence in nats, a scalar.
    """
    with torch.no_grad():
        target = F.softmax(teacher(inputs) / temperature, dim=1)  # [B, C]
    return F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="batchmean")


class AlternatingPasses:
    """A loader whose passes alternate between S_f and the retain set, and are over the retain set alone in the end.

    Args:
        forget_loader: S_f.
        retain_loader: the retain set.
        forget_passes: so many passes over S_f at most.
        within: no pass over S_f begins once so many batches were given, of either loader.

    Attributes:
        maximising: whether the current pass is over S_f.
    """

    def __init__(
        self,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        *,
        forget_passes: float = math.inf,
        within: float = math.inf,
    ) -> None:
        self.forget_loader, self.retain_loader = forget_loader, retain_loader
        self.forget_passes, self.within = forget_passes, within
        self.batches_given = 0
        self.maximising = False

    def __iter__(self) -> Iterator[Any]:
        self.maximising = not self.maximising and self.forget_passes > 0 and self.batches_given < self.within
        self.forget_passes -= self.maximising
        for batch in self.forget_loader if self.maximising else self.retain_loader:
            self.batches_given += 1
            yield batch

    def iterations(self, epochs: int) -> int:
        """Batches of the next epochs, each with its pass over S_f as long as there are any.

        Raises:
            DataError: a loader does not know its length.
        """
        if not isinstance(self.forget_loader, Sized) or not isinstance(self.retain_loader, Sized):
            raise DataError("a loader does not know its length in batches; give iterations or a budget")
        forget_passes = int(min(epochs, self.forget_passes))
        return forget_passes * len(self.forget_loader) + epochs * len(self.retain_loader)
