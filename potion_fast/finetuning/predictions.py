"""Predictions of a model for samples with a label."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """What a model says of some samples.

    Attributes:
        labels: int64 [N], as they are given.
        margins: float32 [N], the label's logit less the largest of the others; above 0 where the model says the label.
    """

    labels: Tensor
    margins: Tensor

    @property
    def right(self) -> Tensor:
        """Whether the model says the label, bool [N]."""
        return self.margins > 0
