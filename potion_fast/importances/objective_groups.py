"""Objectives that share a backward pass, with their sums, and warnings of sums that are 0."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.warn import warn_caller
from .objectives import Losses, Objective, norm
from .receiver import AccumulationTarget

NAMED = 5  # parameters at most in a warning


@dataclass
class ObjectiveGroup:
    """Objectives whose gradients come from one backward pass.

    With several objectives these are ‖f(x)‖₂^w, and the pass differentiates ‖f(x)‖₂: |∇‖f‖^w| = w ‖f‖^(w−1) |∇‖f‖|.

    Attributes:
        objectives: K objectives.
        sums: [K, n], a row for each.
        norm: ‖f(x)‖₂ of what the model gives.
    """

    objectives: list[Objective]
    sums: Tensor
    norm: Losses = norm

    @property
    def losses(self) -> Losses:
        """What is differentiated."""
        return self.objectives[0].losses if len(self.objectives) == 1 else self.norm

    def target(
        self, losses: Tensor, groups: int, scale: float, shapes: Mapping[str, tuple[int, ...]]
    ) -> AccumulationTarget:
        """Where the gradients of scale · Σ losses / (samples per group) go, with that scale taken out again.

        Args:
            losses: [B].
            groups: N, that divides B.
            scale: Of the losses.
            shapes: Of the parameters, by name.
        """
        square, views = self.objectives[0].square, self.views(shapes)
        if len(self.objectives) == 1 and scale == 1:
            return AccumulationTarget(views, square, None, None)
        factors = torch.full(
            (len(self.objectives), len(losses)), 1 / scale, dtype=self.sums.dtype, device=losses.device
        )
        if len(self.objectives) > 1:
            length = losses.detach().to(self.sums.dtype)
            for factor, objective in zip(factors, self.objectives, strict=True):
                w = objective.power
                assert w is not None
                # Where f(x) = 0 its norm has no gradient, and the sample contributes 0 for any w.
                factor *= torch.where(length > 0, w * torch.where(length > 0, length, 1.0) ** (w - 1), 0.0)
        if groups == len(losses):  # a factor of a single gradient can as well be multiplied after |·| or ·²
            return AccumulationTarget(views, square, factors.square() if square else factors, None)
        return AccumulationTarget(views, square, None, factors)

    def views(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Views of the sums: name -> [K, *shape]."""
        parts = self.sums.split([torch.Size(shape).numel() for shape in shapes.values()], dim=1)
        return {name: part.view(len(part), *shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def warn_of_zeros(
    groups: Sequence[ObjectiveGroup], shapes: Mapping[str, tuple[int, ...]], unconnected: Collection[str]
) -> None:
    """Warn of parameters that no gradient has reached, and where no parameter has an importance above 0.

    Args:
        groups: Of a pass that is complete.
        shapes: Of the parameters, by name.
        unconnected: Parameters that no loss of the first samples depends on.
    """
    sums = [group.views(shapes) for group in groups]
    zero = {name for name in shapes if not any(views[name].any() for views in sums)}
    if zero.issuperset(shapes):
        warn_caller(
            "every importance is exactly 0: the losses depend on parameters, and their gradients are 0; look for "
            "outputs that are constant or saturated"
        )
    elif without := [name for name in shapes if name in zero and name in unconnected]:
        names = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
        warn_caller(f"no gradient reaches {names}: no loss depends on them, so their importance is 0")
