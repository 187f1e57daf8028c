"""Values that suspects' inputs have in common: what a trigger writes at a fixed place.

A patch moves no features where the image looks like it anyway, or where the model has learnt the sample by heart. Such
a sample still has the patch, and a label that the model does not give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.inputs import values_of
from ..utils.training_data import TrainingData
from .discriminant import Array, spread

FEWEST = 8  # suspects that values are taken from
ROWS = 256  # samples that values, and how rare they are, are taken from
WIDTH = 3.0  # standard deviations about the suspects' median
RARE = 0.5  # share of other samples with such a value, below which it tells something


@dataclass(frozen=True)
class CommonValues:
    """A range of each value of the input, where suspects lie in it and other samples rarely do.

    Attributes:
        low: [...], of the shape of a sample's input.
        high: [...], likewise.
        places: bool [...], where the range tells something.
    """

    low: Tensor
    high: Tensor
    places: Tensor

    @classmethod
    def of(cls, suspects: Tensor, others: Tensor) -> CommonValues:
        """The ranges of suspects [S, ...], and where other samples [M, ...] rarely lie in them."""
        middle = suspects.median(0).values
        deviation = 1.4826 * (suspects - middle).abs_().median(0).values
        low, high = middle - WIDTH * deviation, middle + WIDTH * deviation
        return cls(low, high, _within(others, low, high).float().mean(0) < RARE)

    def share(self, values: Tensor) -> Tensor:
        """float32 [B], of these places at which each of the samples [B, ...] has such a value."""
        inside = _within(values[:, self.places], self.low[self.places], self.high[self.places])
        return inside.float().mean(1)


def p_values_of_inputs(data: TrainingData, suspects: Tensor, others: Tensor, asked: Tensor) -> Array | None:
    """Probability that a sample without the trigger has so many of the values that suspects have in common.

    It is the share of other labels' samples that have as many (a conformal p-value).

    Args:
        data: The training data, not augmented.
        suspects: int64 [S], their indices.
        others: int64 [M], of samples with other labels.
        asked: int64 [K].

    Returns:
        float64 [K]; None where the suspects are few, or have nothing in common that has a place.
    """
    if len(suspects) < FEWEST or not len(others) or not len(asked):
        return None
    first = [_values(data, spread(indices, ROWS)) for indices in (suspects, others)]
    if first[0] is None or first[1] is None or first[0].shape[1:] != first[1].shape[1:]:
        return None
    common = CommonValues.of(first[0], first[1])
    if not common.places.any():
        return None
    shares = [_shares(data, indices, common) for indices in (others, asked)]
    if shares[0] is None or shares[1] is None:
        return None
    as_many = len(others) - torch.searchsorted(shares[0].sort().values, shares[1])
    found: Array = ((1 + as_many.double()) / (1 + len(others))).numpy()
    return found


def _within(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (values >= low) & (values <= high)


def _values(data: TrainingData, indices: Tensor) -> Tensor | None:
    """float32 [K, ...]; None where they are no real numbers at fixed places."""
    parts = [values_of(inputs) for inputs, _ in data.batches(indices)]
    known = [part.cpu().float() for part in parts if part is not None]
    if len(known) < len(parts) or len({part.shape[1:] for part in known}) > 1:
        return None
    return torch.cat(known)


def _shares(data: TrainingData, indices: Tensor, common: CommonValues) -> Tensor | None:
    """float32 [K], as `CommonValues.share`; None where the inputs differ in shape."""
    parts = []
    for inputs, _ in data.batches(indices):
        values = values_of(inputs)
        if values is None or values.shape[1:] != common.places.shape:
            return None
        parts.append(common.share(values.cpu().float()))
    return torch.cat(parts)
