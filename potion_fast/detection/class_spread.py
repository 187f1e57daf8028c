"""How much of the spread between classes a group of one label's samples has.

Samples that bear their label rightly vary as samples of one class do, however far they stand apart from the others: a
digit that is written in two ways is no poison. Poison with wrong labels comes from other classes: where the trigger has
not yet taken over, in the first half of the layers, it varies as samples of several classes do, whatever the trigger
adds to all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .discriminant import shrunk_covariance

PER_COMPONENT = 8  # samples to each principal component that is kept
FLOOR = 1e-4  # least variance of one, as a part of the first one's


@dataclass(frozen=True)
class ClassDirections:
    """Fisher's discriminants of a layer's outputs: directions in which the classes differ, and the others.

    Attributes:
        mean: float64 [D].
        basis: float64 [D, r], along which samples of one class vary by 1 in the mean, most telling first.
        powers: float64 [k], variance of the classes' means along the first k, of samples that these were not fitted to.
    """

    mean: Tensor
    basis: Tensor
    powers: Tensor

    @classmethod
    def of(cls, outputs: Tensor, labels: Tensor, held_out: Tensor) -> ClassDirections | None:
        """The directions of samples that bear their label rightly, or nearly all of them.

        Args:
            outputs: float32 [M, D] of a layer.
            labels: int64 [M].
            held_out: bool [M], samples that give the directions' powers; the others give the directions.

        Returns:
            None where the outputs have too few dimensions, or there are too few classes, to tell anything.
        """
        own_labels = labels[~held_out]
        mean = outputs[~held_out].double().mean(0)
        centred = outputs[~held_out].double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        kept = min(int((values > FLOOR * values[-1]).sum()), len(centred) // PER_COMPONENT)
        components = vectors.flip(1)[:, :kept]
        means, counts = _means(centred @ components, own_labels)
        count = min(int((counts > 1).sum()) - 1, kept // 2)
        if count < 1:
            return None
        own = torch.searchsorted(own_labels.unique(), own_labels)
        within = torch.from_numpy(shrunk_covariance((centred @ components - means[own]).numpy()))
        whitening = torch.linalg.inv(torch.linalg.cholesky(within)).T  # [r, r]
        between = (means - means.mean(0)) @ whitening
        turned = torch.linalg.eigh(between.T @ between).eigenvectors.flip(1)
        found = cls(mean, components @ whitening @ turned, torch.empty(count))
        return cls(found.mean, found.basis, found._powers(outputs[held_out], labels[held_out]))

    def _powers(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Variance of the classes' means, less what the variance within classes adds to it, in units of the latter."""
        places = (outputs.double() - self.mean) @ self.basis
        means, counts = _means(places, labels)
        means, counts = means[counts > 1], counts[counts > 1]
        kept = torch.isin(labels, labels.unique()[_means(places, labels)[1] > 1])
        own = torch.searchsorted(labels[kept].unique(), labels[kept])
        within = (places[kept] - means[own]).square().sum(0) / (len(own) - len(means))
        by_chance = within * (1 / counts.double()).mean()
        count = len(self.powers)
        return (means.var(0) - by_chance)[:count].clamp(min=0) / within[count:].mean()

    def variances(self, outputs: Tensor) -> Tensor:
        """float64 [k]: of samples [n, D], along the first k directions, in units of that along the others."""
        spread = ((outputs.double() - self.mean) @ self.basis).var(0)
        count = len(self.powers)
        return spread[:count] / spread[count:].mean()


def class_spread(layers: list[tuple[ClassDirections, Tensor, Tensor]]) -> float:
    """Share of the spread between classes that a group has beyond the other samples of its label.

    0 for samples of one class, 1 for samples of all classes alike: by least squares over the directions of all layers,

        Σ β (v − v₀) / Σ β²

    with a direction's power β and the variances v of the group and v₀ of the others.

    Args:
        layers: Directions, outputs [n, D] of the group and [m, D] of the label's other samples; of each layer.

    Returns:
        NaN where no direction tells anything.
    """
    over, under = 0.0, 0.0
    for directions, group, others in layers:
        more = directions.variances(group) - directions.variances(others)
        over += float((directions.powers * more).sum())
        under += float(directions.powers.square().sum())
    return over / under if under > 0 else float("nan")


def _means(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [L, D] and number [L] of the samples of each label that is there."""
    known, own, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(known), values.shape[1], dtype=values.dtype).index_add_(0, own, values)
    return sums / counts[:, None], counts
