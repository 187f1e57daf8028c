"""Simulated poison: clean samples with the suspects' trigger, whose right label is known.

The trigger is not known; two ways put it onto clean samples all the same. Its pattern (`Pattern.added`) where it is at
a fixed place or all over the input; a transplant where it has a place: the part that takes the poison's label from a
suspect when it is hidden is put at the same place of a clean sample. Both are believed by their effect alone: the
model gives the samples the poison's label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.asked_samples import Asked, Samples
from ..utils.inputs import BatchInputs, rows_of
from .pattern import Pattern, with_patterns
from .views import Views, transplanted

LEARNT = 0.5  # share of clean samples with the trigger that must get the poison's label


@dataclass(frozen=True)
class SimulatedPoison:
    """Clean samples with the trigger.

    Attributes:
        samples: Those of them that the model gives the poison's label, M of them, labelled with it.
        right: int64 [M], their own labels.
        success: Share of the clean samples with the trigger that are among them.
        way: "pattern" or "transplant".
    """

    samples: Samples
    right: Tensor
    success: float
    way: str


def by_pattern(asked: Asked, clean: Samples, poison: Tensor, patterns: dict[int, Pattern]) -> SimulatedPoison | None:
    """Clean samples with the pattern of a poison's label.

    Args:
        asked: The model.
        clean: M samples, with their right labels.
        poison: int64 [M], the poison's label that each is to get, another than its own.
        patterns: By the poison's label.

    Returns:
        None where no pattern of such a label is known.
    """
    known = torch.isin(poison, torch.tensor(list(patterns), dtype=poison.dtype)).nonzero().flatten()
    if not len(known):
        return None
    inputs = with_patterns(rows_of(clean.whole(), known), poison[known], patterns)
    return _tried(asked, inputs, clean.labels[known], poison[known], "pattern")


def by_transplant(asked: Asked, clean: Samples, donors: Samples, views: Views) -> SimulatedPoison | None:
    """Clean samples with the parts of suspects that made their label.

    Args:
        asked: The model.
        clean: M samples, with their right labels.
        donors: M suspects, whose labels are others than those.
        views: Of the donors.

    Returns:
        None where views took the label from none of them.
    """
    rows = views.broken.nonzero().flatten()
    if not len(rows):
        return None
    clean, donors = clean.chosen(rows), donors.chosen(rows)
    mixed = transplanted(clean.whole(), donors.whole(), views.parts[rows])
    return _tried(asked, mixed, clean.labels, donors.labels, "transplant")


def _tried(asked: Asked, inputs: BatchInputs, right: Tensor, poison: Tensor, way: str) -> SimulatedPoison:
    """Those of the samples that the model gives the poison's label."""
    tried = Samples(asked.data, poison, inputs=inputs)
    best = torch.cat([asked.log_p(part).argmax(1) for part, _ in tried.batches()])
    fooled = (best == poison).nonzero().flatten()
    return SimulatedPoison(tried.chosen(fooled), right[fooled], len(fooled) / len(poison), way)
