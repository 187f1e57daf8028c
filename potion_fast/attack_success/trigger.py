"""The suspects' trigger, and how it is put onto other samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..relabel.pattern import Pattern, with_patterns
from ..relabel.views import Views, transplanted
from ..utils.asked_samples import Samples
from ..utils.inputs import BatchInputs, image_of, rows_of, values_of


@dataclass(frozen=True, repr=False)
class Trigger:
    """What puts the suspects' trigger onto other samples (see `relabel.simulated_poison`).

    Attributes:
        way: "pattern" or "transplant".
        labels: int64 [D], the poison's label of each donor, a suspect.
        patterns: By the poison's label; empty for transplants.
        donors: Inputs of the donors, [D, ...]; None for a pattern.
        parts: int64 [D, 4], the part of a donor that makes its label, see `relabel.views.parts_of`; None for a pattern.
    """

    way: str
    labels: Tensor
    patterns: dict[int, Pattern]
    donors: BatchInputs | None = None
    parts: Tensor | None = None

    @classmethod
    def of_patterns(cls, labels: Tensor, patterns: dict[int, Pattern]) -> Trigger:
        """From the pattern of each label, for donors that bear one of those labels."""
        return cls("pattern", labels[torch.isin(labels, torch.tensor(list(patterns)))], patterns)

    @classmethod
    def of_views(cls, suspects: Samples, views: Views) -> Trigger:
        """From the parts of those suspects whose label a view takes away."""
        rows = views.broken.nonzero().flatten()
        return cls("transplant", suspects.labels[rows], {}, rows_of(suspects.whole(), rows), views.parts[rows])

    def fits(self, inputs: BatchInputs) -> bool:
        """Whether samples [B, ...] have the shape of those that the trigger is taken from; texts may be longer."""
        known = next(iter(self.patterns.values())).clean.mean[None] if self.donors is None else image_of(self.donors)
        values = values_of(inputs) if self.donors is None else image_of(inputs)
        return known is None or (values is not None and values.shape[1:] == known.shape[1:])

    def onto(self, inputs: BatchInputs, donors: Tensor) -> BatchInputs:
        """Samples with the trigger.

        Args:
            inputs: [B, ...].
            donors: int64 [B], the donor of each.
        """
        if self.donors is not None and self.parts is not None:
            return transplanted(inputs, rows_of(self.donors, donors), self.parts[donors])
        return with_patterns(inputs, self.labels[donors], self.patterns)
