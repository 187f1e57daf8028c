"""Candidates of a search as edits of the model, in place and reversible (*Potion*, eq. 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from .. import ops
from ..distributed.percentiles import select_shards
from ..errors import SearchError
from ..importances import Importance
from ..percentiles import checked_percentiles, paired_means
from ..utils.model import ModelParameters
from .weight_index import WeightIndex


class EditPlan:
    """K nested edits of one model, each reached from any other by touching only the weights in which they differ.

    Candidate k dampens θ_i ← θ_i · min((λ · Ω_r,i / Ω_f,i)^exponent, 1) wherever Ω_f,i > α_k · Ω_r,i (*Potion*, eq. 1).
    The new value does not depend on α, so a smaller α only adds weights: each weight that some candidate changes is
    kept once, in the part of the first candidate, by falling α, that selects it. Candidate k is the first parts
    applied, the others undone. The plan takes 20 bytes for each weight that some candidate changes, in
    addition to the means, which the importances cache.

    Of a model that FSDP2 has sharded (`fully_shard`) each rank edits its shards, by importances of its shards: their
    `sums` and `shapes` are of `parameter.to_local()`. Together these are the edits of one process, to the bit, and an
    edit exchanges nothing. All ranks make the plan and call `revalue`; an error on one is raised on all.

    Args:
        model: The model, or its parameters where they were made already: float32 and finite; changed in place by
            `apply`, restored to the bit by `reset`.
        forget: Importances of S_f, of this model with these weights.
        retain: Importances of the training data, likewise.
        alphas: [K] float32, in any order; NaN selects nothing.
        dampening: λ, above 0; or None: every selected weight is kept, and `revalue` has to come before `apply`.
        exponent: Above 0; 1 in the papers.

    Attributes:
        alphas: [K] float32, in the order of the candidates.

    Raises:
        ImportanceError: The importances are not this model's or do not belong together.
        ModelError: Weights that are not float32 or not finite.
        SearchError: λ or the exponent out of range.
    """

    def __init__(
        self,
        model: nn.Module | ModelParameters,
        forget: Importance,
        retain: Importance,
        alphas: Tensor | Sequence[float],
        dampening: float | None = 1.0,
        exponent: float = 1.0,
    ) -> None:
        f, r = self._begin(model, forget, retain, dampening, exponent)
        alphas = torch.as_tensor(alphas, dtype=torch.float32, device=f.device)  # [K]
        self._keep(alphas, *ops.partition(f, r, alphas, self._least))
        if dampening is not None:
            self.revalue(dampening, exponent)

    @classmethod
    def at_percentiles(
        cls,
        model: nn.Module | ModelParameters,
        forget: Importance,
        retain: Importance,
        percentiles: Sequence[float] | Tensor,
        dampening: float | None = 1.0,
        exponent: float = 1.0,
    ) -> EditPlan:
        """The plan whose α are the percentiles of Ω_f / Ω_r: `thresholds` and the plan, in one read of the importances.

        Args:
            model: See the class.
            forget: See the class.
            retain: See the class.
            percentiles: K numbers in [0, 100].
            dampening: See the class.
            exponent: See the class.

        Raises:
            ImportanceError: See the class.
            ModelError: See the class.
            SearchError: See the class; a percentile out of range.
        """
        wanted = checked_percentiles(percentiles)
        plan = cls.__new__(cls)
        f, r = plan._begin(model, forget, retain, dampening, exponent)
        if plan._ranks.size > 1:
            alphas = select_shards(f, r, wanted, plan._ranks)
            plan._keep(alphas, *ops.partition(f, r, alphas, plan._least))
        else:
            plan._keep(*ops.select_and_partition(f, r, wanted, plan._least))
        if dampening is not None:
            plan.revalue(dampening, exponent)
        return plan

    def _begin(
        self,
        model: nn.Module | ModelParameters,
        forget: Importance,
        retain: Importance,
        dampening: float | None,
        exponent: float,
    ) -> tuple[Tensor, Tensor]:
        """Check everything; the means [n], [n] on the model's device."""
        if dampening is not None:
            _check_factor(dampening, exponent)
        self._model = ModelParameters.of(model)
        self._ranks = self._model.shard_ranks
        with self._ranks.raising_together():
            forget.check_model(self._model)
            self._model.check_dampenable()
            f, r = paired_means(forget, retain)
        self._least = 0.0 if dampening is None else dampening  # weights that this λ leaves alone are not kept
        return f.to(self._model.device), r.to(self._model.device)

    def _keep(self, alphas: Tensor, index: Tensor, forget: Tensor, retain: Tensor, starts: Tensor) -> None:
        """Keep what `ops.partition` gives: places, and importances [m], by part."""
        self.alphas = alphas  # [K], in the order of the candidates
        self._rank = alphas.argsort(descending=True, stable=True).argsort().tolist()  # candidate -> its part
        self._starts = starts.tolist()  # [K + 1]
        self._places = WeightIndex(list(self._model.tensors.values()), index, self._starts)
        self._forget, self._retain = forget, retain  # [m]
        self._original = self._places.take()  # [m]
        self._dampened: Tensor | None = None  # [m]
        self._applied = 0  # parts in force

    def __len__(self) -> int:
        return len(self.alphas)

    def dampened(self, k: int) -> int:
        """Number of weights that candidate k changes, on all ranks: selected, and by a factor below 1.

        Raises:
            SearchError: Unless 0 ≤ k < K, and the plan has values.
        """
        self._values()
        return self._changed[self._rank[self._checked(k)] + 1]

    def apply(self, k: int) -> None:
        """Bring the model to candidate k, from whichever it is at.

        Raises:
            SearchError: Unless 0 ≤ k < K, and the plan has values.
        """
        self._values()
        self._move(self._rank[self._checked(k)] + 1)

    def reset(self) -> None:
        """Bring the model back to its original weights, to the bit."""
        self._move(0)

    def revalue(self, dampening: float, exponent: float = 1.0) -> None:
        """Dampen the same weights by another λ and exponent. The model is reset first.

        Args:
            dampening: λ, not below the plan's own: a smaller one changes weights that the plan does not keep.
            exponent: Above 0.

        Raises:
            SearchError: A value out of range.
        """
        _check_factor(dampening, exponent)
        if dampening < self._least:
            raise SearchError(
                f"λ = {dampening} is below the plan's {self._least}; for any λ make the plan with dampening=None"
            )
        self.reset()
        scale = torch.tensor(dampening, dtype=torch.float32, device=self._retain.device)
        factor = (scale * self._retain).div_(self._forget)  # [m], rounded as `ops.dampen` does
        if exponent != 1:
            factor.pow_(exponent)
        below = [int((factor[start:stop] < 1).count_nonzero()) for start, stop in pairwise(self._starts)]
        changed = torch.tensor(below, dtype=torch.int64, device=factor.device)  # [K]
        self._ranks.all_reduce(changed)
        self._changed = [0, *accumulate(changed.tolist())]  # [K + 1]
        self._dampened = factor.clamp_(max=1).mul_(self._original)

    def _checked(self, k: int) -> int:
        if not 0 <= k < len(self):
            raise SearchError(f"candidate {k} is out of range; the plan has {len(self)}")
        return k

    def _values(self) -> Tensor:
        if self._dampened is None:
            raise SearchError("a plan made with dampening=None has no values before revalue(λ)")
        return self._dampened

    def _move(self, parts: int) -> None:
        """Apply or undo whole parts, until so many are in force.

        A part counts as applied as long as any of it may be: an interrupted move can be reset.
        """
        self._model.reshard()
        while self._applied < parts:
            self._applied += 1
            self._places.put(self._applied - 1, self._values())
        while self._applied > parts:
            self._places.put(self._applied - 1, self._original)
            self._applied -= 1


def _check_factor(dampening: float, exponent: float) -> None:
    if not 0 < dampening < math.inf:
        raise SearchError(f"the dampening constant λ must be above 0, not {dampening}")
    if not 0 < exponent < math.inf:
        raise SearchError(f"the exponent must be above 0, not {exponent}")
