"""Search for the rest of the poison in the training data, from the samples that were found."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Ranks
from ..distributed.ranks import Group
from ..errors import DataError
from ..utils.adapter import Adapter
from ..utils.training_data import TrainingData, check_indices, plain_data
from ..utils.warn import warn_caller
from .common_values import p_values_of_inputs
from .disagreement import disagreeing
from .discriminant import Background, background_of
from .features import Features, features_of
from .label_result import LabelResult
from .one_label import examine
from .regularity import regularity
from .suspect_list import SWAP, TRIGGER, LabelSummary, Suspects

RATE = 0.05
BELOW = 64  # samples below the line that are kept to be looked at


def suspects(
    model: nn.Module,
    train_set: Any,
    found: Iterable[int] | Tensor,
    *,
    plain_set: Any = None,
    rate: float = RATE,
    adapter: Adapter | None = None,
    amp: torch.dtype | None = None,
    progress: bool = False,
    process_group: Group = None,
) -> Suspects:
    """The rest of the poison in the training data, from the samples that were found.

    One forward pass over the training data keeps the input of the last layer. Among the samples that bear a label of
    S_f, the direction of Fisher's discriminant from the others to S_f is taken in their first principal components,
    with the covariance that samples of other labels have about their own means; scores along it are split into two
    Gaussians; and the direction is taken anew with the samples that were found so, for a few rounds. Where S_f follows
    no such rule (`regularity`), its labels are taken for swapped ones, and samples are sought whose labels a probe that
    has not seen them disagrees with (`disagreeing`).

    Of samples to which the model does not give their label, those are called too whose inputs have the values that the
    suspects' have in common, and that other labels' samples rarely have: a patch that moves no features, because the
    image looks like it anyway (`p_values_of_inputs`).

    The rate is that of Benjamini and Hochberg's procedure on p-values of the scores, and holds where S_f shows what the
    poison is: members that do not belong are named, but fewer than five of a label are taken for poison.

    Args:
        model: The poisoned model; it is given back as it was.
        train_set: The training data as trained on, read by index: a data set, or a DataLoader over one.
        found: Indices of S_f.
        plain_set: The same samples in the same order without random augmentation, where `train_set` has some.
        rate: False discovery rate: expected share of false ones among the suspects that are not of S_f, in (0, 1).
        adapter: How batches are read, as for `unlearn`.
        amp: The model runs under autocast to this dtype.
        progress: Show a progress bar.
        process_group: Of torch.distributed, whose ranks share the pass; all get the same suspects.

    Raises:
        DataError: Indices, data or rate that cannot be.
        ModelError: The model is no classifier, or gives what is not finite.
    """
    _check_rate(rate)
    data = plain_data(plain_set, TrainingData.of(train_set, adapter=adapter))
    members = _read(found)
    check_indices(members, len(data), "found")
    ranks = Ranks.of(process_group)
    features = features_of(model, data, amp=amp, ranks=ranks, progress=progress)
    with ranks.raising_together():
        return suspects_from(features, members, rate=rate, data=data)


def suspects_from(
    features: Features, found: Iterable[int] | Tensor, *, rate: float = RATE, data: TrainingData | None = None
) -> Suspects:
    """The rest of the poison, from features of the whole training data. No random number is drawn.

    Args:
        features: Of every sample, in the order of the training data.
        found: Indices of S_f.
        rate: False discovery rate, in (0, 1).
        data: The samples, not augmented, whose inputs are looked at too; None: the features alone.

    Raises:
        DataError: Indices or rate that cannot be, or features that are not finite.
    """
    _check_rate(rate)
    given = _read(found)
    members = check_indices(given, len(features), "found")
    _check_finite(features.features)
    warnings = []
    if len(members) < len(given):
        warnings.append(f"{len(given) - len(members)} of the found samples were given twice and count once")
    labels = features.labels[members].unique()
    background = background_of(features.features, features.labels, labels)
    measured = regularity(features, members)
    read = None if measured.kind == SWAP else data
    parts = [_Part.of(features, members, label, background, rate, read) for label in labels]
    listed = _listed(parts, members, rate, tuple(text for part in parts for text in part.warnings))
    if measured.kind == SWAP:
        listed = disagreeing(features, members, rate, apart=listed)
    listed = replace(listed, why=measured.why, warnings=(*warnings, *listed.warnings))
    for text in listed.warnings:
        warn_caller(text)
    return listed


class _Part:
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
    ) -> _Part:
        if not len(background):  # all labels are S_f's: the others' poison lies in other directions
            background = background_of(features.features, features.labels, label)
        rows = (features.labels == label).nonzero().flatten()
        found = torch.isin(rows, members).nonzero().flatten()
        result = examine(features.features[rows], found, background, rate)
        alien = found[~torch.from_numpy(result.called)[found]]
        # Where the model gives none of them their label, they are poison that it did not learn rather than clean.
        if (features.best[rows[alien]] != label).all():
            result.called[alien.numpy()] = True
        called = torch.from_numpy(result.called)
        doubted = (~called & (features.best[rows] != label)).nonzero().flatten()
        p = None if data is None else p_values_of_inputs(data, rows[called], background.indices, rows[doubted])
        if p is not None:
            result = result.with_input_p_values(doubted.numpy(), p, torch.isin(rows, members).numpy(), rate)
        return cls(int(label), rows, found, result)


def _listed(parts: list[_Part], members: Tensor, rate: float, warnings: tuple[str, ...]) -> Suspects:
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


def _read(found: Iterable[int] | Tensor) -> list[int] | Tensor:
    """Indices that can be read twice."""
    if isinstance(found, Tensor):
        return found
    if not isinstance(found, Iterable):
        raise DataError(f"found must be indices of samples, such as [3, 14], not {found!r}")
    return list(found)


def _check_rate(rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
        raise DataError(f"rate must be a number between 0 and 1, such as 0.05, not {rate!r}")


def _check_finite(features: Tensor) -> None:
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        raise DataError(
            f"the features of the sample {int(bad.nonzero()[0])} of the training set are not finite; poison cannot be "
            "sought with them"
        )
