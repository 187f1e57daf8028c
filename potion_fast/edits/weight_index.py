"""Index of some weights of a model by their places in the flat buffer of importances, read and written part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from .. import ops
from ..ops import is_dense


class WeightIndex:
    """m places in a flat buffer that is spread over parameters, in K parts that are ascending each.

    Args:
        parameters: Float32 tensors, in any memory format, in the order of the buffer; each in its logical order.
        index: [m] int32 or int64; kept, and changed to the order of memory where that is not the logical one.
        starts: [K + 1]: part j is index[starts[j] : starts[j + 1]].
    """

    def __init__(self, parameters: Sequence[Tensor], index: Tensor, starts: Sequence[int]) -> None:
        self.index = index
        offsets = [0, *accumulate(parameter.numel() for parameter in parameters)]  # [P + 1]
        edges = torch.tensor(offsets, dtype=index.dtype, device=index.device)
        parts = [slice(start, stop) for start, stop in pairwise(starts)]
        cuts = [torch.searchsorted(index[part], edges) for part in parts]  # [K][P + 1]
        self._parts: list[list[_Run]] = []
        for part, cut in zip(parts, torch.stack(cuts).tolist() if cuts else [], strict=True):
            segments = [
                _Segment(parameter, offset, part.start + low, part.start + high)
                for parameter, offset, (low, high) in zip(parameters, offsets, pairwise(cut), strict=False)
                if low < high
            ]
            for segment in segments:
                segment.to_memory_order(index)
            runs = groupby(segments, lambda segment: -1 if is_dense(segment.parameter) else segment.offset)
            self._parts.append([_Run(list(run)) for _, run in runs])

    def __len__(self) -> int:
        return len(self._parts)

    def take(self) -> Tensor:
        """The weights at all places, [m]."""
        values = torch.empty(len(self.index), dtype=torch.float32, device=self.index.device)
        for run in (run for part in self._parts for run in part):
            values[run.span] = run.take(self.index)
        return values

    def put(self, part: int, values: Tensor) -> None:
        """Set the weights of one part.

        Args:
            part: Its number, in [0, K).
            values: [m], of all parts; those of the others are not read.
        """
        for run in self._parts[part]:
            run.put(self.index, values)


@dataclass(frozen=True)
class _Segment:
    """The places of one part in one parameter: index[start : stop]."""

    parameter: Tensor
    offset: int  # of the parameter in the flat buffer
    start: int
    stop: int

    def to_memory_order(self, index: Tensor) -> None:
        if self.parameter.is_contiguous() or not is_dense(self.parameter):
            return
        places = index[self.start : self.stop]
        remaining, in_memory = places - self.offset, torch.full_like(places, self.offset)
        for size, stride in zip(reversed(self.parameter.shape), reversed(self.parameter.stride()), strict=True):
            in_memory += remaining % size * stride
            remaining = remaining.div_(size, rounding_mode="floor")
        places.copy_(in_memory)


class _Run:
    """Segments of one part that follow each other: those in dense parameters, or one in a parameter with gaps."""

    def __init__(self, segments: list[_Segment]) -> None:
        first = segments[0].start
        self.span = slice(first, segments[-1].stop)
        self.parameters = [segment.parameter for segment in segments]
        self.offsets = [segment.offset for segment in segments]
        self.cuts = [0, *(segment.stop - first for segment in segments)]
        self.dense = is_dense(self.parameters[0])

    def take(self, index: Tensor) -> Tensor:
        if self.dense:
            return ops.take(self.parameters, self.offsets, self.cuts, index[self.span])
        return self.parameters[0][self._logical(index)]

    def put(self, index: Tensor, values: Tensor) -> None:
        if self.dense:
            ops.put(self.parameters, self.offsets, self.cuts, index[self.span], values[self.span])
        else:  # not put_, which refuses to run under torch.use_deterministic_algorithms
            self.parameters[0][self._logical(index)] = values[self.span]

    def _logical(self, index: Tensor) -> tuple[Tensor, ...]:
        return torch.unravel_index(index[self.span].long() - self.offsets[0], self.parameters[0].shape)
