"""Candidates of a search as edits of the model, in place and reversible (paper A, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from . import ops
from .errors import ModelError, SearchError
from .importances import Importance
from .modules import checked_parameters
from .percentiles import paired_means


class EditPlan:
    """K nested edits of one model, each reached from any other by touching only the weights in which they differ.

    Candidate k dampens θ_i ← θ_i · min(λ · Ω_r,i / Ω_f,i, 1) wherever Ω_f,i > α_k · Ω_r,i. The new value does not
    depend on α, so a smaller α only adds weights: each weight that some candidate changes is kept once, in the group of
    the first candidate, by falling α, that selects it. Candidate k is the first groups applied, the rest undone.

    model           parameters float32 and finite; changed in place by `apply`, restored to the bit by `reset`
    forget, retain  importances of this model with these weights
    alphas          [K] float32, in any order; NaN selects nothing
    dampening       λ, above 0

    Raises ImportanceError where the importances are not this model's or do not belong together, ModelError for weights
    that are not float32 or not finite, SearchError for λ out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        forget: Importance,
        retain: Importance,
        alphas: Tensor | Sequence[float],
        dampening: float = 1.0,
    ) -> None:
        if not dampening > 0:
            raise SearchError(f"the dampening constant λ must be above 0, not {dampening}")
        forget.check_model(model)
        parameters = checked_parameters(model)
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise ModelError(f"parameter {name!r} is {parameter.dtype}; only float32 weights can be dampened")
        f, o = paired_means(forget, retain)  # [n], [n]
        self._parameters = [parameter.detach() for parameter in parameters.values()]
        device = self._parameters[0].device
        f, o = f.to(device), o.to(device)
        self.alphas = torch.as_tensor(alphas, dtype=torch.float32, device=device)  # [K]
        sizes = (parameter.numel() for parameter in self._parameters)
        self._offsets = torch.tensor([0, *accumulate(sizes)], device=device)  # [P + 1]

        index = _changed(f, o, self.alphas, dampening)  # [m], ascending
        f, o = f[index], o[index]
        falling = self.alphas.sort(descending=True, stable=True)  # NaN first
        count = torch.zeros(len(index), dtype=torch.int64, device=device)
        for alpha in falling.values:
            count += f > alpha * o
        group, order = (len(self.alphas) - count).sort(stable=True)  # first candidate that selects, by falling α
        index = index[order]
        self._index = index  # [m], by group, then ascending
        self._starts = torch.searchsorted(group, torch.arange(len(self.alphas) + 1, device=device)).tolist()
        self._rank = falling.indices.argsort().tolist()  # candidate -> its place by falling α

        self._original = self._gather()  # [m]
        self._dampened = self._original.clone()
        if len(index):
            ops.dampen(self._dampened, f[order], o[order], float(falling.values[-1]), dampening)
        self._applied = 0  # groups in force

    def __len__(self) -> int:
        return len(self.alphas)

    def dampened(self, k: int) -> int:
        """Number of weights that candidate k changes: selected, and by a factor below 1."""
        return self._starts[self._rank[self._checked(k)] + 1]

    def apply(self, k: int) -> None:
        """Bring the model to candidate k, from whichever it is at. Raises SearchError unless 0 ≤ k < K."""
        self._move(self._rank[self._checked(k)] + 1)

    def reset(self) -> None:
        """Bring the model back to its original weights, to the bit."""
        self._move(0)

    def _checked(self, k: int) -> int:
        if not 0 <= k < len(self):
            raise SearchError(f"candidate {k} is out of range; the plan has {len(self)}")
        return k

    def _move(self, groups: int) -> None:
        """Apply or undo whole groups. A group counts as applied as long as any of it may be: an interrupted move can
        be reset."""
        while self._applied < groups:
            self._applied += 1
            self._put(self._applied - 1, self._dampened)
        while self._applied > groups:
            self._put(self._applied - 1, self._original)
            self._applied -= 1

    def _put(self, group: int, values: Tensor) -> None:
        for parameter, index, part in self._pieces(self._starts[group], self._starts[group + 1]):
            _write(parameter, index, values[part])

    def _gather(self) -> Tensor:
        values = torch.empty(len(self._index), device=self._index.device)
        for start, stop in zip(self._starts, [*self._starts[1:], len(self._index)], strict=True):
            for parameter, index, part in self._pieces(start, stop):
                values[part] = parameter.take(index)
        return values

    def _pieces(self, start: int, stop: int) -> list[tuple[Tensor, Tensor, slice]]:
        """Weights start to stop of one group, cut where parameters end: parameter, index in it, place in the plan."""
        index = self._index[start:stop]
        cuts = (start + torch.searchsorted(index, self._offsets)).tolist()  # [P + 1]
        return [
            (parameter, self._index[low:high] - offset, slice(low, high))
            for parameter, low, high, offset in zip(
                self._parameters, cuts[:-1], cuts[1:], self._offsets.tolist(), strict=False
            )
            if low < high
        ]


def _write(parameter: Tensor, index: Tensor, values: Tensor) -> None:
    """Set elements by their place in the parameter's logical order, whatever its memory format."""
    if parameter.is_contiguous():
        parameter.view(-1)[index] = values
    else:  # not put_, which refuses to run under torch.use_deterministic_algorithms
        parameter[torch.unravel_index(index, parameter.shape)] = values


def _changed(f: Tensor, o: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    """Ascending indices of the weights that the smallest α selects and whose factor is below 1."""
    finite = alphas[~alphas.isnan()]
    if finite.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=f.device)
    index = (f > finite.min() * o).nonzero().squeeze(1)
    scale = torch.tensor(dampening, dtype=torch.float32, device=f.device) * o[index]
    return index[scale / f[index] < 1]
