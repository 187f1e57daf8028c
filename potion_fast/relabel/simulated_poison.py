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

from ..utils.inputs import BatchInputs, concatenated
from .pattern import Pattern
from .samples import Asked, Samples, image_of, rows_of, with_image
from .views import Views, channels_last

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

    @property
    def believed(self) -> bool:
        """Whether what was put onto clean samples is the trigger."""
        return self.success >= LEARNT


def by_pattern(
    asked: Asked, inputs: BatchInputs, right: Tensor, poison: Tensor, patterns: dict[int, Pattern]
) -> SimulatedPoison | None:
    """Clean samples with the pattern of a poison's label.

    Args:
        asked: The model.
        inputs: Of clean samples, [M, ...].
        right: int64 [M], their labels.
        poison: int64 [M], the poison's label that each is to get, another than its own.
        patterns: By the poison's label.

    Returns:
        None where no pattern of such a label is known.
    """
    known = torch.tensor([label in patterns for label in poison.tolist()])
    if not known.any():
        return None
    rows = known.nonzero().flatten()
    inputs, right, poison = rows_of(inputs, rows), right[rows], poison[rows]
    order, parts = [], []
    for label in poison.unique().tolist():
        of_label = (poison == label).nonzero().flatten()
        order.append(of_label)
        parts.append(patterns[label].added(rows_of(inputs, of_label)))
    joint = torch.cat(order)
    return _tried(asked, concatenated(parts), right[joint], poison[joint], "pattern")


def by_transplant(
    asked: Asked, inputs: BatchInputs, right: Tensor, donors: Samples, views: Views
) -> SimulatedPoison | None:
    """Clean samples with the parts of suspects that made their label.

    Args:
        asked: The model.
        inputs: Of clean samples, [M, ...].
        right: int64 [M], their labels.
        donors: M suspects, whose labels are others than those.
        views: Of the donors.

    Returns:
        None where views took the label from none of them.
    """
    rows = views.broken.nonzero().flatten()
    if not len(rows) or image_of(inputs) is None:
        return None
    given = concatenated([part for part, _ in donors.batches()])
    source, image = image_of(rows_of(given, rows)), image_of(inputs := rows_of(inputs, rows))
    assert source is not None and image is not None
    image = image.clone()
    for place, (top, left, bottom, right_edge) in enumerate(views.parts[rows].tolist()):
        across = slice(top, bottom), slice(left, right_edge)
        part = (place, *across) if channels_last(image) else (place, slice(None), *across)
        image[part] = source[part]
    return _tried(asked, with_image(inputs, image), right[rows], donors.labels[rows], "transplant")


def _tried(asked: Asked, inputs: BatchInputs, right: Tensor, poison: Tensor, way: str) -> SimulatedPoison:
    """Those of the samples that the model gives the poison's label."""
    size = asked.data.batch_size
    best = [asked.log_p(part).argmax(1) for part, _ in Samples.in_memory(inputs, poison, size).batches()]
    fooled = (torch.cat(best) == poison).nonzero().flatten()
    samples = Samples.in_memory(rows_of(inputs, fooled), poison[fooled], size)
    return SimulatedPoison(samples, right[fooled], len(fooled) / len(poison), way)
