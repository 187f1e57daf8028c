"""One label's part of the list of suspects, and the list of all parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..utils.training_data import TrainingData
from .common_values import p_values_of_inputs
from .discriminant import Background, Mask, background_of
from .features import Features
from .label_result import LabelResult
from .one_label import examine
from .suspect_list import TRIGGER, LabelSummary, Suspects

BELOW = 64  # samples below the line that are kept to be looked at


class LabelPart:
    """What was found among the samples of one label.

    Attributes:
        rows: int64 [n], the label's samples.
        found: int64 [F], rows of S_f within them.
        result: By sample.
        summary: For the table.
        warnings: What deserves a second look.
    """

    def __init__(self, label: int, rows: Tensor, found: Tensor, result: LabelResult) -> None:
        self.rows, self.found, self.result = rows, found, result
        called = torch.from_numpy(result.called)
        fitting = int(called[found].sum())
        self.summary = LabelSummary(
            label=label,
            samples=len(rows),
            found=len(found),
            fitting=fitting,
            suspects=int(called.sum()) - fitting,
            share=result.share,
            separation=result.separation,
            note=result.note,
        )
        self.warnings = [f"label {label}: {result.note}"] if result.doubtful else []
        if fitting < len(found):
            self.warnings.append(
                f"label {label}: {len(found) - fitting} of {len(found)} found samples are not like the poison that the "
                "others show, and are taken for clean"
            )

    @classmethod
    def of(
        cls,
        features: Features,
        members: Tensor,
        label: Tensor,
        background: Background,
        rate: float,
        data: TrainingData | None,
    ) -> LabelPart:
        """The part of a label of S_f.

        Args:
            features: Of the whole training data.
            members: int64 [F], S_f.
            label: int64 [].
            background: Samples of labels that S_f does not bear.
            rate: False discovery rate.
            data: The training data, whose inputs are looked at too; None: the features alone.
        """
        if not len(background):  # all labels are S_f's: the others' poison lies in other directions
            background = background_of(features.features, features.labels, label)
        rows = (features.labels == label).nonzero().flatten()
        found = torch.isin(rows, members).nonzero().flatten()
        of_two = len(features.labels.unique()) == 2
        result = examine(features.features[rows], found, background, rate, of_two=of_two)
        alien = found[~torch.from_numpy(result.called)[found]]
        # Where the model gives none of them their label, they are poison that it did not learn rather than clean.
        if (features.best[rows[alien]] != label).all():
            result.called[alien.numpy()] = True
        if data is not None:
            result = with_inputs(
                result, features, rows, torch.isin(rows, members).numpy(), background.indices, rate, data
            )
        return cls(int(label), rows, found, result)


def trigger_list(features: Features, members: Tensor, rate: float, data: TrainingData | None) -> Suspects:
    """Suspects of all labels that S_f bears, by what its members have in common.

    Args:
        features: Of the whole training data.
        members: int64 [F], S_f.
        rate: False discovery rate.
        data: The training data, whose inputs are looked at too; None: the features alone.
    """
    labels = features.labels[members].unique()
    background = background_of(features.features, features.labels, labels)
    parts = [LabelPart.of(features, members, label, background, rate, data) for label in labels]
    warnings = [text for part in parts for text in part.warnings]
    return joint_list(parts, members, rate, (*warnings, *majority_warnings([part.summary for part in parts])))


def majority_warnings(rows: Sequence[LabelSummary]) -> tuple[str, ...]:
    """A warning for each label of whose samples, S_f left out, more than half are called poison.

    The rate then rests on too few samples that are none: where a label has several kinds, one of them may be called.
    """
    return tuple(
        f"label {row.label}: {row.suspects} of {row.samples - row.found} samples are called poison; more than half of "
        "a label may be one of its own kinds, and no rate of false ones holds there: look at them"
        for row in rows
        if 2 * row.suspects > row.samples - row.found
    )


def with_inputs(
    result: LabelResult,
    features: Features,
    rows: Tensor,
    found: Mask,
    others: Tensor,
    rate: float,
    data: TrainingData,
) -> LabelResult:
    """Those called too whose inputs have what the others' have in common, where the model gives them another label.

    Args:
        result: Of the label's samples.
        features: Of the whole training data.
        rows: int64 [n], the label's samples.
        found: [n], S_f.
        others: int64 [M], samples of other labels.
        rate: False discovery rate.
        data: The training data, not augmented.
    """
    called = torch.from_numpy(result.called)
    doubted = (~called & (features.best[rows] != features.labels[rows])).nonzero().flatten()
    p = p_values_of_inputs(data, rows[called], others, rows[doubted])
    return result if p is None else result.with_input_p_values(doubted.numpy(), p, found, rate)


def joint_list(parts: list[LabelPart], members: Tensor, rate: float, warnings: tuple[str, ...]) -> Suspects:
    """The labels' parts as one list, most suspect first."""
    rows = torch.cat([part.rows for part in parts])
    scores = torch.cat([torch.from_numpy(part.result.scores) for part in parts])
    p_values = torch.cat([torch.from_numpy(part.result.p_values) for part in parts])
    called = torch.cat([torch.from_numpy(part.result.called) for part in parts])
    order = torch.nan_to_num(scores, nan=-math.inf).argsort(descending=True, stable=True)
    chosen = order[called[order]]
    below = order[~called[order] & ~torch.isin(rows[order], members) & ~scores[order].isnan()][:BELOW]
    return Suspects(
        indices=rows[chosen],
        scores=scores[chosen],
        p_values=p_values[chosen],
        labels=torch.cat([torch.full_like(part.rows, part.summary.label) for part in parts])[chosen],
        rate=rate,
        found=members,
        fits=torch.isin(members, rows[called]),
        kind=TRIGGER,
        why="",
        by_label=tuple(part.summary for part in parts),
        below=rows[below],
        below_scores=scores[below],
        warnings=warnings,
    )
