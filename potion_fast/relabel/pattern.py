"""Labels after the trigger's pattern is taken off the inputs.

What a trigger does to every input at the same place shows in the mean and the spread of each input value over the
suspects. Mapping these back to those of the other data,

    x' = (x − mean_s) / spread_s · spread_c + mean_c,

undoes a patch at a fixed place and a pattern that is added or blended in. The model's label of x' is the proposal, the
poison's label too: natural members bear it rightly. The inverse puts the trigger onto clean samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ..utils.asked_samples import Asked, Samples
from ..utils.inputs import BatchInputs, concatenated, map_tensors, rows_of, values_of

FEWEST = 8  # samples that a pattern is taken from
FLOOR = 1e-3  # least spread of an input value, as a part of all values' spread


@dataclass(frozen=True)
class Moments:
    """Mean and spread of each input value over samples.

    Attributes:
        mean: float64 [...], of the shape of a sample's input.
        spread: float64 [...], the standard deviation.
        samples: How many there were.
        least: Of all values.
        most: Of all values.
    """

    mean: Tensor
    spread: Tensor
    samples: int
    least: float
    most: float


def moments(batches: Iterable[tuple[BatchInputs, Tensor]]) -> dict[int, Moments]:
    """Moments of the samples of each label, in one go over batches of inputs [B, ...] and labels int64 [B].

    Raises:
        DataError: The inputs have no values that are comparable from sample to sample, see `values_of`.
    """
    sums: dict[int, list[Tensor]] = {}
    counts: dict[int, int] = {}
    ranges: dict[int, list[float]] = {}
    for inputs, labels in batches:
        values = values_of(inputs)
        if values is None:
            raise DataError("the inputs have no real values at fixed places, so no pattern can be taken off them")
        for label in labels.unique().tolist():
            x = values[labels == label].double()
            if label not in sums:
                sums[label], counts[label] = [torch.zeros_like(x[0]), torch.zeros_like(x[0])], 0
                ranges[label] = [torch.inf, -torch.inf]
            if x.shape[1:] != sums[label][0].shape:
                raise DataError("the inputs differ in shape, so no pattern can be taken off them")
            sums[label][0] += x.sum(0)
            sums[label][1] += x.square().sum(0)
            counts[label] += len(x)
            ranges[label] = [min(ranges[label][0], x.min().item()), max(ranges[label][1], x.max().item())]
    found = {}
    for label, (total, squares) in sums.items():
        mean = total / counts[label]
        spread = (squares / counts[label] - mean.square()).clamp(min=0).sqrt()
        found[label] = Moments(mean, spread, counts[label], *ranges[label])
    return found


@dataclass(frozen=True)
class Pattern:
    """What a trigger does to the inputs of the samples of one label.

    Attributes:
        suspects: Moments of the suspects that bear the label.
        clean: Those of the other data.
    """

    suspects: Moments
    clean: Moments

    def removed(self, inputs: BatchInputs) -> BatchInputs:
        """Inputs [B, ...] without the trigger."""
        return _mapped(inputs, self.suspects, self.clean)

    def added(self, inputs: BatchInputs) -> BatchInputs:
        """Clean inputs [B, ...] with the trigger."""
        return _mapped(inputs, self.clean, self.suspects)


def _mapped(inputs: BatchInputs, one: Moments, other: Moments) -> BatchInputs:
    values = values_of(inputs)
    assert values is not None
    floor = FLOOR * max(one.spread.max().item(), other.spread.max().item())
    scaled = (values.double() - one.mean) / one.spread.clamp(min=floor) * other.spread + other.mean
    scaled = scaled.clamp(other.least, other.most)
    mapped = (scaled if values.is_floating_point() else scaled.round()).to(values.dtype)
    return map_tensors(inputs, lambda tensor: mapped if tensor is values else tensor)


def patterns_of(samples: Samples, clean: Moments) -> dict[int, Pattern]:
    """The pattern of each label that enough of the samples bear."""
    found = moments(samples.batches())
    return {label: Pattern(part, clean) for label, part in found.items() if part.samples >= FEWEST}


def with_patterns(inputs: BatchInputs, labels: Tensor, patterns: dict[int, Pattern]) -> BatchInputs:
    """Clean inputs [B, ...] with the pattern of a label each, int64 [B]."""
    order, parts = [], []
    for label in labels.unique().tolist():
        order.append(rows := (labels == label).nonzero().flatten())
        parts.append(patterns[label].added(rows_of(inputs, rows)))
    return rows_of(concatenated(parts), torch.cat(order).argsort())


def log_p_without(asked: Asked, samples: Samples, patterns: dict[int, Pattern]) -> Tensor:
    """Log-probabilities float32 [K, C] of samples without their label's pattern; as they are where none is known."""
    found = []
    for inputs, labels in samples.batches():
        order, parts = [], []
        for label in labels.unique().tolist():
            order.append(rows := (labels == label).nonzero().flatten())
            part = rows_of(inputs, rows)
            parts.append(patterns[label].removed(part) if label in patterns else part)
        log_p = asked.log_p(concatenated(parts))
        found.append(torch.empty_like(log_p).index_copy(0, torch.cat(order), log_p))
    return torch.cat(found)
