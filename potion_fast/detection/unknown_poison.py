"""Poison in training data of which no sample has been found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..utils.training_data import TrainingData
from .discriminant import background_of
from .features import Features
from .label_evidence import FEWEST_CLASSES, LabelEvidence, evidence_by_label
from .label_part import LabelPart, joint_list, with_inputs
from .suspect_list import TRIGGER, LabelSummary, Suspects

ALARM = 0.05  # chance that a label is named where there is no poison, for the whole training set


def unknown_poison(
    model: nn.Module,
    data: TrainingData,
    features: Features,
    *,
    rate: float,
    amp: torch.dtype | None = None,
    progress: bool = False,
) -> Suspects:
    """The poison of the labels whose evidence is beyond chance, and the p-values of all.

    Args:
        model: The model.
        data: The training data, not augmented.
        features: Of all of it.
        rate: False discovery rate, where a label is poisoned.
        amp: The model runs under autocast to this dtype.
        progress: Show progress bars.
    """
    evidence = evidence_by_label(model, data, features, amp=amp, progress=progress)
    named = beyond_chance({label: known.p_value for label, known in evidence.items()})
    nobody = torch.empty(0, dtype=torch.int64)
    parts = {label: _part(label, evidence[label], features, rate, data) for label in named}
    summaries = [_summary(label, known, parts.get(label)) for label, known in evidence.items()]
    known_parts = [part for part in parts.values() if part is not None]
    empty = replace(Suspects.of_indices([]), rate=rate, kind=TRIGGER)
    return replace(
        joint_list(known_parts, nobody, rate, ()) if known_parts else empty,
        why=_why(named, len(evidence)),
        by_label=tuple(sorted(summaries, key=lambda summary: (summary.p_value, summary.label))),
    )


def beyond_chance(p_values: dict[int, float]) -> list[int]:
    """Labels whose p-values are beyond chance, with probability 0.05 of naming any that is not (Holm, 1979)."""
    named: list[int] = []
    for place, label in enumerate(sorted(p_values, key=lambda label: (p_values[label], label))):
        if p_values[label] > ALARM / (len(p_values) - place):
            break
        named.append(label)
    return sorted(named)


def _part(label: int, known: LabelEvidence, features: Features, rate: float, data: TrainingData) -> LabelPart | None:
    """A label's suspects, from the group that is poison; None where that does not hold together."""
    if known.space is None or known.poison is None:
        return None
    nobody = np.zeros(len(known.rows), dtype=bool)
    result = known.space.group(known.poison.members, nobody, nobody, rate)
    if result is None:
        return None
    background = background_of(features.features, features.labels, torch.tensor(label))
    result = with_inputs(result, features, known.rows, nobody, background.indices, rate, data)
    return LabelPart(label, known.rows, torch.empty(0, dtype=torch.int64), result)


def _summary(label: int, known: LabelEvidence, part: LabelPart | None) -> LabelSummary:
    """A label's row of the table."""
    if part is not None:
        return replace(part.summary, p_value=known.p_value)
    group = known.poison
    apart = 0.0 if group is None else group.separation
    return LabelSummary(label, len(known.rows), 0, 0, 0, 0.0, apart, p_value=known.p_value)


def _why(named: list[int], labels: int) -> str:
    if labels < FEWEST_CLASSES:
        return f"with {labels} labels, poison that has not been found cannot be told from a class of several kinds"
    if not named:
        return f"none of {labels} labels has a group of samples that stands apart and varies as several classes do"
    shown = ", ".join(map(str, named[:10])) + (", …" if len(named) > 10 else "")
    one = len(named) == 1
    return (
        f"the label{'' if one else 's'} {shown} ha{'s' if one else 've'} a group of samples that stands apart and "
        "varies as several classes do"
    )
