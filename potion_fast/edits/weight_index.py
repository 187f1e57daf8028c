"""Some weights of a model, known by their places in the flat buffer of importances: read and written group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from .. import ops
from ..ops import is_dense


class WeightIndex:
    """m places in a flat buffer that is spread over parameters, in K groups that are ascending each.

    parameters  float32 tensors, in any memory format, in the order of the buffer; each in its logical order
    index       [m] int32 or int64; kept, and changed to the order of memory where that is not the logical one
    starts      [K + 1]: group j is index[starts[j] : starts[j + 1]]
    """

    def __init__(self, parameters: Sequence[Tensor], index: Tensor, starts: Sequence[int]) -> None:
        self.index = index
        offsets = [0, *accumulate(parameter.numel() for parameter in parameters)]  # [P + 1]
        edges = torch.tensor(offsets, dtype=index.dtype, device=index.device)
        groups = [slice(start, stop) for start, stop in pairwise(starts)]
        cuts = [torch.searchsorted(index[group], edges) for group in groups]  # [K][P + 1]
        self._groups: list[list[_Run]] = []
        for group, cut in zip(groups, torch.stack(cuts).tolist() if cuts else [], strict=True):
            pieces = [
                _Piece(parameter, offset, group.start + low, group.start + high)
                for parameter, offset, (low, high) in zip(parameters, offsets, pairwise(cut), strict=False)
                if low < high
            ]
            for piece in pieces:
                piece.to_memory_order(index)
            runs = groupby(pieces, lambda piece: -1 if is_dense(piece.parameter) else piece.offset)
            self._groups.append([_Run(list(run)) for _, run in runs])

    def __len__(self) -> int:
        """Number of groups."""
        return len(self._groups)

    def take(self) -> Tensor:
        """The weights at all places, [m]."""
        values = torch.empty(len(self.index), device=self.index.device)
        for run in (run for group in self._groups for run in group):
            values[run.part] = run.take(self.index)
        return values

    def put(self, group: int, values: Tensor) -> None:
        """Set the weights of one group to their part of `values` [m]."""
        for run in self._groups[group]:
            run.put(self.index, values)


@dataclass(frozen=True)
class _Piece:
    """The places of one group in one parameter: index[start : stop]."""

    parameter: Tensor
    offset: int  # of the parameter in the flat buffer
    start: int
    stop: int

    def to_memory_order(self, index: Tensor) -> None:
        if self.parameter.is_contiguous() or not is_dense(self.parameter):
            return
        part = index[self.start : self.stop]
        left, place = part - self.offset, torch.full_like(part, self.offset)
        for size, stride in zip(reversed(self.parameter.shape), reversed(self.parameter.stride()), strict=True):
            place += left % size * stride
            left = left.div_(size, rounding_mode="floor")
        part.copy_(place)


class _Run:
    """Pieces of one group that follow each other: those in dense parameters, or one in a parameter with gaps."""

    def __init__(self, pieces: list[_Piece]) -> None:
        first = pieces[0].start
        self.part = slice(first, pieces[-1].stop)
        self.parameters = [piece.parameter for piece in pieces]
        self.offsets = [piece.offset for piece in pieces]
        self.cuts = [0, *(piece.stop - first for piece in pieces)]
        self.dense = is_dense(self.parameters[0])

    def take(self, index: Tensor) -> Tensor:
        if self.dense:
            return ops.take(self.parameters, self.offsets, self.cuts, index[self.part])
        return self.parameters[0][self._logical(index)]

    def put(self, index: Tensor, values: Tensor) -> None:
        if self.dense:
            ops.put(self.parameters, self.offsets, self.cuts, index[self.part], values[self.part])
        else:  # not put_, which refuses to run under torch.use_deterministic_algorithms
            self.parameters[0][self._logical(index)] = values[self.part]

    def _logical(self, index: Tensor) -> tuple[Tensor, ...]:
        return torch.unravel_index(index[self.part].long() - self.offsets[0], self.parameters[0].shape)
