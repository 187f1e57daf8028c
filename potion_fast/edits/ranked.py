"""Candidates without a grid: the weights in order of their ratio Ω_f / Ω_r, dampened one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..importances import Importance
from ..percentiles import paired_means
from ..utils.model import ModelParameters
from .weight_index import WeightIndex

FIRST = 2**12  # weights put in order at first
GROWTH = 16  # how many times as many, whenever they do not suffice


class RankedPlan:
    """Candidate k dampens the k + 1 weights of largest ratio, θ_i ← θ_i · Ω_r,i / Ω_f,i (*Potion*, eq. 1 at λ = 1).

    x/0 comes first; of equal ratios, as all x/0 are, that with the larger Ω_f comes first, then the first in the model.
    Weights whose ratio is not above 1 keep their value and are no candidates. Only the top is put in order: 4096
    weights, and 16 times as many whenever they do not suffice, cut off by Ω_f > α · Ω_r as everywhere; at a cut two
    ratios that differ by rounding may come the other way round. Going from one candidate to another touches only the
    weights in which they differ.

    Args:
        model: The model, or its parameters where they were made already: float32 and finite; changed in place by
            `apply`, restored to the bit by `reset`.
        forget: Importances of S_f, of this model with these weights.
        retain: Importances of the training data, likewise.

    Attributes:
        alphas: [K] float32, of the candidates there are so far: the ratio of the last weight that candidate k dampens.

    Raises:
        ImportanceError: The importances are not this model's or do not belong together.
        ModelError: Weights that are not float32 or not finite.
    """

    def __init__(self, model: nn.Module | ModelParameters, forget: Importance, retain: Importance) -> None:
        parameters = ModelParameters.of(model)
        forget.check_model(parameters)
        parameters.check_dampenable()
        self._parameters, device = list(parameters.tensors.values()), parameters.device
        self._forget, self._retain = (mean.to(device) for mean in paired_means(forget, retain))  # [n], [n]
        self._wanted, self._complete = FIRST, False
        self._edge = torch.full((1,), torch.nan, dtype=torch.float32, device=device)  # α of the weights in order: none
        self._index = torch.empty(0, dtype=torch.int64, device=device)  # [m], in order
        self.alphas = self._original = self._dampened = torch.empty(0, dtype=torch.float32, device=device)  # [m] each
        self._applied = 0  # weights that may be dampened

    def more(self) -> bool:
        """Put more weights in order; False where all are.

        One call may find none: equal ratios come all at once.
        """
        if self._complete:
            return False
        n = len(self._forget)
        edge = torch.ones_like(self._edge)
        if self._wanted < n:
            edge = ops.select(self._forget, self._retain, [100 * (1 - self._wanted / n)])
        if not edge > 1:  # NaN: no ratio is finite
            edge, self._complete = torch.ones_like(edge), True
        index, f, r, starts = ops.partition(self._forget, self._retain, torch.cat([self._edge, edge]))
        new = slice(int(starts[1]), None)  # part 0 is in order already
        self._append(index[new], f[new], r[new])
        self._edge, self._wanted = edge, GROWTH * self._wanted
        return True

    def _append(self, index: Tensor, f: Tensor, r: Tensor) -> None:
        """Add weights, by ascending index [m], that come after those in order."""
        original = WeightIndex(self._parameters, index.clone(), [0, len(index)]).take()  # it changes what it is given
        dampened = original.clone()
        ops.dampen(dampened, f, r, 1.0)
        order = f.sort(descending=True, stable=True).indices
        order = order[(f / r)[order].sort(descending=True, stable=True).indices]
        self._index = torch.cat([self._index, index[order]])
        self.alphas = torch.cat([self.alphas, (f / r)[order]])
        self._original = torch.cat([self._original, original[order]])
        self._dampened = torch.cat([self._dampened, dampened[order]])

    def dampened(self, k: int) -> int:
        """Number of weights that candidate k changes."""
        return k + 1

    def apply(self, k: int) -> None:
        """Bring the model to candidate k, from whichever it is at."""
        self._move(k + 1)

    def reset(self) -> None:
        """Bring the model back to its original weights, to the bit."""
        self._move(0)

    def _move(self, count: int) -> None:
        """Dampen the first `count` weights and no others.

        As long as a weight may be dampened it counts as such: an interrupted move can be reset.
        """
        low, high = sorted((self._applied, count))
        index, order = self._index[low:high].sort()
        places = WeightIndex(self._parameters, index, [0, len(index)])
        if count > self._applied:
            self._applied = count
            places.put(0, self._dampened[low:high][order])
        else:
            places.put(0, self._original[low:high][order])
            self._applied = count
