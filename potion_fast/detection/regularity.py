"""Regularity of poison: whether found samples follow a rule, as a trigger does, or are mislabelled one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .features import Features
from .held_out_probe import held_out_logits
from .suspect_list import SWAP, TRIGGER

CLASSES = 100  # more of them, and only those are told apart that the model takes S_f for
LINE = 0.7  # agreement above which found samples follow a rule
SEVERAL_TARGETS = 0.1  # assumed share of triggers that have more than one label
ONE_WAY = 0.2  # assumed share of mislabellings that go into one class only
SURE = math.log(10)  # log-odds


@dataclass(frozen=True)
class Regularity:
    """How regular the found samples are, and the arm that follows.

    Attributes:
        kind: "trigger" or "swap".
        value: Agreement, in [0, 1]: share of S_f that a probe gives its label without having seen the sample.
        log_odds: Of a rule against single mislabellings.
        sure: Whether the odds are ten to one or more for the kind.
        why: The same as a sentence.
    """

    kind: str
    value: float
    log_odds: float
    sure: bool
    why: str


def regularity(features: Features, found: Tensor, *, logits: Tensor | None = None) -> Regularity:
    """Measure whether the poison label of S_f follows from what the network sees in its samples.

    A trigger is a rule: a probe that has learnt the other samples, poison among them, gives a triggered sample its
    label too. A swapped label is memorised with its sample: a probe that has not seen it gives another one. The
    measure is the share k / F of S_f with which the probe of `held_out_logits` agrees. Members of S_f that do not
    belong have a right label, and it agrees with them in either case; so up to half of a swap's S_f may agree.

    The odds are those of k among F where the agreement is uniform in [0.7, 1] (a rule) and in [0, 0.7] (none), times
    those of the labels: a trigger has one target in nine cases of ten; a mislabelling goes into several classes in
    eight of ten, and then F samples bear the same label with probability 2^(1 - F) at most. Where the odds are less
    than ten to one, `sure` is False. One found sample never gives such odds, and the kind is "trigger" then: that arm
    calls nothing where the found samples do not stand apart, and does less harm where it is wrong.

    Args:
        features: Of the training data.
        found: int64 [F], indices of S_f.
        logits: Of `held_out_logits`, where they are there.
    """
    given = features.labels[found]
    if logits is None:
        features, found = _contested(features, found)
        logits = held_out_logits(features)
    agree = int((logits[found].argmax(1) == features.labels[found]).sum())
    log_odds = _agreement(agree, len(found)) + _labels(len(given.unique()), len(found))
    kind = TRIGGER if log_odds > 0 or len(found) == 1 else SWAP
    sure = abs(log_odds) >= SURE
    return Regularity(kind, agree / len(found), log_odds, sure, _why(kind, agree, len(found), log_odds))


def _contested(features: Features, found: Tensor) -> tuple[Features, Tensor]:
    """Of many classes, those that the model takes S_f for, renumbered: the probe costs as much as it has classes."""
    if features.classes <= CLASSES:
        return features, found
    kept = torch.cat([features.labels[found], features.best[found], features.second[found]]).unique()
    rows = torch.isin(features.labels, kept).nonzero()[:, 0]
    part = replace(
        features,
        **{name: getattr(features, name)[rows] for name in ("features", "log_p", "best", "second")},
        labels=torch.searchsorted(kept, features.labels[rows]),
        classes=len(kept),
    )
    return part, torch.searchsorted(rows, found)


def _agreement(agree: int, samples: int) -> float:
    """Log-odds of so many agreeing samples, by the integral of a^k (1 - a)^(F - k) over either side of the line."""
    from scipy.special import betainc

    below = float(betainc(agree + 1, samples - agree + 1, LINE))  # of both integrals together
    tiny = 1e-12
    return math.log(max(1 - below, tiny) / (1 - LINE)) - math.log(max(below, tiny) / LINE)


def _labels(labels: int, samples: int) -> float:
    """Log-odds of the number of different labels in S_f."""
    if samples == 1:
        return 0.0
    same_by_chance = 2.0 ** (1 - samples)
    if labels == 1:
        return math.log(1 - SEVERAL_TARGETS + SEVERAL_TARGETS * same_by_chance) - math.log(
            ONE_WAY + (1 - ONE_WAY) * same_by_chance
        )
    return math.log(SEVERAL_TARGETS) - math.log(1 - ONE_WAY)


def _why(kind: str, agree: int, samples: int, log_odds: float) -> str:
    if samples == 1:
        said = "" if agree else "not "
        return f"one found sample tells no rule; a probe that has not seen it does {said}give its label"
    rule = "they follow a rule, as with a trigger" if kind == TRIGGER else "they are mislabelled one by one"
    odds = math.exp(min(abs(log_odds), math.log(1000)))
    shown = "over 999" if odds > 999 else f"{odds:.{0 if odds >= 10 else 1}f}"
    return f"a probe that has not seen them gives {agree} of {samples} found samples their label: {rule} ({shown} to 1)"
