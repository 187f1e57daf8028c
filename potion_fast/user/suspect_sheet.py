"""The suspects of a healing in files: the contact sheet, and the order of their proposed labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..detection import Suspects
from ..relabel import ProposedLabels
from .contact_sheet import COLUMNS, Sample, draw_contact_sheet

MOST_SUSPECT = 2 * COLUMNS  # samples on the sheet


def labels_for(suspects: Suspects, labels: ProposedLabels) -> Tensor:
    """The proposed labels int64 [K] in the order of the suspects, in the same numbering; -1 where there is none."""
    proposed = dict(zip(labels.indices.tolist(), labels.labels.tolist(), strict=True))
    return torch.tensor([proposed.get(index, -1) for index in suspects.indices.tolist()], dtype=torch.int64)


def draw_suspects(
    path: Path,
    suspects: Suspects,
    images_of: Callable[[list[int]], Tensor],
    labels: Tensor,
    names: Sequence[str],
) -> None:
    """Draw the contact sheet of the suspects.

    Args:
        path: of the PNG.
        suspects: with the labels that they get.
        images_of: gives the images [C, H, W] of samples, pixels in [0, 1].
        labels: int64 [N], of the whole training set.
        names: of the classes.
    """
    found = set(suspects.found.tolist())

    def samples(indices: Tensor, scores: Sequence[float], proposed: Tensor | None = None) -> list[Sample]:
        if not len(indices):
            return []
        new = [-1] * len(indices) if proposed is None else proposed.tolist()
        return [
            Sample(
                index=index,
                image=image,
                score=None if math.isnan(score) else score,
                given=names[int(labels[index])],
                proposed=names[label] if label >= 0 else None,
                found=index in found,
            )
            for index, image, score, label in zip(
                indices.tolist(), images_of(indices.tolist()), scores, new, strict=True
            )
        ]

    def part(places: slice) -> list[Sample]:
        proposed = None if suspects.proposed is None else suspects.proposed[places]
        return samples(suspects.indices[places], suspects.scores[places].tolist(), proposed)

    odd = suspects.found[~suspects.fits][:COLUMNS]
    groups: dict[str, Sequence[Sample]] = {
        f"most suspect, of {len(suspects):,} suspects": part(slice(0, MOST_SUSPECT)),
        "suspects nearest the line": part(slice(max(MOST_SUSPECT, len(suspects) - COLUMNS), len(suspects))),
        "no suspects, nearest the line": samples(suspects.below[:COLUMNS], suspects.below_scores[:COLUMNS].tolist()),
        "found samples that do not fit": samples(odd, [math.nan] * len(odd)),
    }
    draw_contact_sheet(path, groups)
