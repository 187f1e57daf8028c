"""Labels from a ridge probe on an earlier layer, with the suspects' mean shift taken off.

A trigger that is all over the input moves the features of an early layer by about the same vector for every sample,
and the class is still to be read there. The probe is a ridge regression of one-hot labels on the layer's outputs,
averaged over places or tokens, of clean samples; its error is that of leaving one sample out (exact, from the hat
matrix). It is asked about the suspects' features less the difference between their mean and that of clean samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..utils.asked_samples import best_other

FLOOR = 0.1  # least spread of a feature, as a part of the mean one
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of ridge regressions on standardised features, per sample


@dataclass(frozen=True)
class Probe:
    """A ridge regression of one-hot labels on standardised features.

    Attributes:
        mean: float64 [D], of the features it was fitted on.
        spread: float64 [D].
        weights: float64 [D, C].
        shares: float64 [C], of the labels.
        accuracy: Share of the samples that it gives their label when they are left out.
        hits: float64 [C], that share for the samples of each label; NaN where there is none.
        false: float64 [C], share of the other samples that it gives the label.
    """

    mean: Tensor
    spread: Tensor
    weights: Tensor
    shares: Tensor
    accuracy: float
    hits: Tensor
    false: Tensor

    @classmethod
    def fitted(cls, features: Tensor, labels: Tensor, classes: int) -> Probe:
        """The probe whose penalty has the largest accuracy on left-out samples.

        Args:
            features: [N, D].
            labels: int64 [N].
            classes: C.
        """
        x = features.double()
        mean, spread = x.mean(0), x.std(0, unbiased=False)
        spread = spread.clamp(min=max(FLOOR * spread.mean().item(), 1e-12))  # what clean samples hardly move
        x = (x - mean) / spread
        targets = functional.one_hot(labels, classes).double()
        shares = targets.mean(0)
        targets = targets - shares
        values, vectors = torch.linalg.eigh(x.T @ x)
        turned = x @ vectors  # [N, D]
        products = turned.T @ targets  # [D, C]
        best: Probe | None = None
        for penalty in PENALTIES:
            inverse = 1 / (values.clamp(min=0) + penalty * len(x))
            fits = turned @ (inverse[:, None] * products)
            leverage = turned.square() @ inverse + 1 / len(x)  # the hat matrix's diagonal
            left_out = (fits - leverage[:, None] * targets) / (1 - leverage)[:, None].clamp(min=1e-9)
            said = (left_out + shares).argmax(1)
            accuracy = (said == labels).double().mean().item()
            if best is None or accuracy > best.accuracy:
                weights = vectors @ (inverse[:, None] * products)
                best = cls(mean, spread, weights, shares, accuracy, *_rates(said, labels, classes))
        assert best is not None
        return best

    def scores(self, features: Tensor) -> Tensor:
        """Scores float64 [K, C] of features [K, D]."""
        return (features.double() - self.mean) / self.spread @ self.weights + self.shares


def _rates(said: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Of each label, the share of its samples that are given it, and of the others'; float64 [C] each."""
    own, all_said = (torch.bincount(given, minlength=classes).double() for given in (labels, said))
    right = torch.bincount(labels[said == labels], minlength=classes).double()
    return right / own, (all_said - right) / (len(labels) - own)


def labels_by_probe(probe: Probe, features: Tensor, given: Tensor) -> Tensor:
    """The probe's best other label, for features less the shift of their mean from that of the clean samples.

    Args:
        probe: Fitted to clean samples, whose mean it has.
        features: [K, D].
        given: int64 [K], the labels that the samples bear; those of one label share a shift.

    Returns:
        int64 [K].
    """
    moved = features.double()
    for label in given.unique().tolist():
        rows = given == label
        moved[rows] += probe.mean - moved[rows].mean(0)
    return best_other(probe.scores(moved), given)
