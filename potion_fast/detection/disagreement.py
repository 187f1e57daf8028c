"""Wrong labels that no trigger makes: samples whose label a probe that has not seen it disagrees with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .features import Features
from .held_out_probe import held_out_logits
from .label_noise import LabelNoise, fitted_noise
from .suspect_list import SWAP, LabelSummary, Suspects

PRIOR = 0.99  # probability that a member of S_f has a wrong label, before it is looked at
MARGIN = 0.7  # of the rate that the model's own is held to: the model is surer than right (measured)
MANY = 5  # found samples of a label from which a group that stands apart is taken for swapped samples
BELOW = 64  # samples below the line that are kept to be looked at


def disagreeing(features: Features, found: Tensor, rate: float, apart: Suspects) -> Suspects:
    """Samples with a wrong label, from samples whose label is known to be wrong.

    The model of label noise (`fitted_noise`) is fitted to a probe that has seen neither the sample nor S_f. The
    suspects are the most samples whose mean probability of a right label is within the rate; where classes overlap for
    the probe, these are few. Where the labels follow S_f's classes, a group of the same label that holds five of S_f
    and stands apart in the features is taken too.

    Args:
        features: Of the training data.
        found: int64 [F], ascending indices of S_f.
        rate: False discovery rate: expected share of suspects whose label is right.
        apart: What stands apart from the other samples of its label, with its table and warnings.

    Returns:
        Suspects of kind "swap": scores are log-odds of a wrong label, p-values the share of right labels with such a
        score by the model. A member of S_f fits unless its label is a hundred times likelier right than wrong.
    """
    trusted = torch.ones(len(features), dtype=torch.bool)
    trusted[found] = False
    noise = fitted_noise(held_out_logits(features, trusted), features.labels, found)
    wrong, score = noise.wrong, (noise.wrong.clamp(1e-12, 1 - 1e-12)).logit()
    order = score.argsort(descending=True, stable=True)
    rest = order[trusted[order]]
    right = 1 - wrong[rest]
    within = right.cumsum(0) <= MARGIN * rate * torch.arange(1, len(rest) + 1)
    called = torch.zeros_like(trusted)
    called[rest[: int(within.nonzero().max()) + 1 if within.any() else 0]] = True
    if noise.follows_found:
        called |= _grouped(features, found, apart)
    fits = noise.ratio[found] * PRIOR > 1 - PRIOR
    called[found] = fits
    p_values = _p_values(score, 1 - wrong, trusted)
    chosen = order[called[order]]
    below = rest[~called[rest]][:BELOW]
    return replace(
        apart,
        indices=chosen,
        scores=score[chosen],
        p_values=p_values[chosen],
        labels=features.labels[chosen],
        rate=rate,
        fits=fits,
        kind=SWAP,
        by_label=_summaries(features, found, called, noise, score),
        below=below,
        below_scores=score[below],
        warnings=_warnings(fits),
    )


def likely_labels(features: Features, suspects: Tensor) -> Tensor:
    """The most likely right labels of samples whose labels are wrong, int64 [K], none of them the given one.

    By a probe that has learnt neither the sample nor any suspect, and by the classes that the suspects' labels are
    mistaken for: where two classes have been swapped, almost always the other one of the two.

    Args:
        features: Of the training data.
        suspects: int64 [K], indices of the samples.
    """
    trusted = torch.ones(len(features), dtype=torch.bool)
    trusted[suspects] = False
    return fitted_noise(held_out_logits(features, trusted), features.labels, suspects).likely[suspects]


def _grouped(features: Features, found: Tensor, apart: Suspects) -> Tensor:
    """Samples, bool [N], of groups that stand apart and hold enough of S_f."""
    taken = torch.zeros(len(features), dtype=torch.bool)
    for summary in apart.by_label:
        if summary.fitting >= MANY and summary.separation > 0:
            taken[apart.indices[apart.labels == summary.label]] = True
    taken[found] = False
    return taken


def _p_values(score: Tensor, right: Tensor, trusted: Tensor) -> Tensor:
    """Share of right labels whose score is at least as high, float64 [N], by the model's probabilities."""
    order = score.argsort(descending=True, stable=True)
    weights = torch.where(trusted, right, torch.zeros_like(right))[order]
    tail = torch.empty_like(score)
    tail[order] = weights.cumsum(0) / weights.sum().clamp(min=1e-12)
    return tail.clamp(0, 1)


def _summaries(
    features: Features, found: Tensor, called: Tensor, noise: LabelNoise, score: Tensor
) -> tuple[LabelSummary, ...]:
    """A row for each label of S_f and of the suspects."""
    is_found = torch.zeros_like(called)
    is_found[found] = True
    rows = []
    for label in features.labels[called | is_found].unique():
        of_label = features.labels == label
        suspects, others = of_label & called, of_label & ~called
        apart = 0.0
        if suspects.any() and int(others.sum()) > 1 and float(score[others].std()) > 0:
            apart = float((score[suspects].mean() - score[others].mean()) / score[others].std())
        rows.append(
            LabelSummary(
                label=int(label),
                samples=int(of_label.sum()),
                found=int((of_label & is_found).sum()),
                fitting=int((suspects & is_found).sum()),
                suspects=int((suspects & ~is_found).sum()),
                share=float(torch.where(is_found, called.double(), noise.wrong)[of_label].mean()),
                separation=apart,
                note=_mistaken_for(noise, suspects),
            )
        )
    return tuple(rows)


def _mistaken_for(noise: LabelNoise, suspects: Tensor) -> str:
    """What most of a label's suspects are likely to be."""
    if not suspects.any():
        return ""
    likely, counts = noise.likely[suspects].unique(return_counts=True)
    return f"{int(counts.max())} of {int(suspects.sum())} are likely of class {int(likely[counts.argmax()])}"


def _warnings(fits: Tensor) -> tuple[str, ...]:
    if fits.all():
        return ()
    return (
        f"{int((~fits).sum())} of {len(fits)} found samples have the label that a probe which has not seen them gives "
        "too, and are taken for clean",
    )
