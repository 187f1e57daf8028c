"""Whether a group of one label's samples varies as samples of all classes do, or as the others of its label.

Samples that bear their label rightly vary as samples of one class do, however far they stand apart from the others: a
digit that is written in two ways is no poison. Poison with wrong labels comes from other classes: where the trigger has
not yet taken over, in the first half of the layers, it varies as samples of several classes do, whatever the trigger
adds to all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .discriminant import shrunk_covariance

PER_COMPONENT = 8  # samples to each principal component that is kept
FLOOR = 1e-4  # least variance of one, as a part of the first one's
ENOUGH = 2  # samples of a label to each direction, from which on their covariance is taken as it is


@dataclass(frozen=True)
class ClassDirections:
    """Fisher's discriminants of a layer's outputs: directions in which the classes differ, and the others.

    Attributes:
        mean: float64 [D].
        basis: float64 [D, r], along which samples of one class vary by 1 in the mean, most telling first.
        count: Of directions in which classes differ, the first k.
    """

    mean: Tensor
    basis: Tensor
    count: int

    @classmethod
    def of(cls, outputs: Tensor, labels: Tensor) -> ClassDirections | None:
        """The directions of samples that bear their label rightly, or nearly all of them.

        Args:
            outputs: float32 [M, D] of a layer.
            labels: int64 [M].

        Returns:
            None where the outputs have too few dimensions, or there are too few classes, to tell anything.
        """
        known, own, counts = labels.unique(return_inverse=True, return_counts=True)
        mean = outputs.double().mean(0)
        centred = outputs.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        kept = min(int((values > FLOOR * values[-1]).sum()), len(centred) // PER_COMPONENT)
        count = min(len(known) - 1, kept // 2)
        if count < 1:
            return None
        components = vectors.flip(1)[:, :kept]
        places = centred @ components
        means = torch.zeros(len(known), kept, dtype=places.dtype).index_add_(0, own, places) / counts[:, None]
        within = torch.from_numpy(shrunk_covariance((places - means[own]).numpy()))
        whitening = torch.linalg.inv(torch.linalg.cholesky(within)).T  # [r, r]
        between = (means - means.mean(0)) @ whitening
        turned = torch.linalg.eigh(between.T @ between).eigenvectors.flip(1)
        return cls(mean, components @ whitening @ turned, count)

    def covariance(self, outputs: Tensor) -> Tensor:
        """float64 [k, k]: of samples [n, D] along the first k, in units of their mean variance along the others."""
        covariance = ((outputs.double() - self.mean) @ self.basis).T.cov()
        return covariance[: self.count, : self.count] / covariance.diagonal()[self.count :].mean()


class LayerOutputs(NamedTuple):
    """What a layer gives for a group, for other samples of its label, and for samples of all other classes.

    None of the others are samples that the directions were fitted to.

    Attributes:
        directions: Of the layer.
        group: float32 [n, D].
        own: float32 [m, D].
        all_classes: float32 [M, D].
    """

    directions: ClassDirections
    group: Tensor
    own: Tensor
    all_classes: Tensor


def class_spread(layers: list[LayerOutputs]) -> float:
    """How far a group is from varying as the others of its label do to varying as samples of all classes.

    0 for the one, 1 for the other; by least squares over the elements of the covariances of all layers,

        Σ (V − V_own) (V_all − V_own) / Σ (V_all − V_own)²

    A thousand classes differ in hundreds of directions, and a few samples of the label span few of them: the square of
    V_own, which is in both sums, would be that of chance. V_own is then the mean variance of the label in all
    directions, along which samples of one class vary by as much in the mean.

    Args:
        layers: That are read.

    Returns:
        NaN where there is no layer.
    """
    over, under = 0.0, 0.0
    for directions, *samples in layers:
        group, own, everything = (directions.covariance(outputs) for outputs in samples)
        if len(samples[1]) < ENOUGH * directions.count:
            own = own.diagonal().mean() * torch.eye(directions.count, dtype=own.dtype)
        over += float(((group - own) * (everything - own)).sum())
        under += float((everything - own).square().sum())
    return over / under if under > 0 else float("nan")
