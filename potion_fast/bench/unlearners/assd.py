"""ASSD: SSD with the threshold that eq. 7 of paper A gives, taken once (Schoepf et al., 2024)."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...edits.plan import EditPlan
from ...errors import PotionWarning
from ...importances import Importance
from ...percentiles import percentile_of
from ...search import Step
from ...utils.predict import accuracy, predict
from .base import Unlearned
from .dampening import Dampening


@dataclass(frozen=True, kw_only=True)
class ASSD(Dampening):
    """One edit at α = the percentile 100 − ln(1 + 100 · |S_f| / |S_tr|) of the ratios of importances: no b_start, no
    search.

    dampening  λ
    """

    name, objective = "assd", "ssd"

    dampening: float = 1.0

    def edit(
        self,
        model: nn.Module,
        forget: Importance,
        retain: Importance,
        forget_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        start = time.perf_counter()
        share = forget.samples / (retain.samples + (0 if self.holds_forget else forget.samples))
        p = percentile_of(share)
        model = copy.deepcopy(model)
        plan = EditPlan.at_percentiles(model, forget, retain, [p], self.dampening)
        plan.apply(0)
        left = accuracy(*predict(model, forget_loader, progress))
        seconds = time.perf_counter() - start
        step = Step(1, share, p, float(plan.alphas[0]), left, plan.dampened(0), seconds)
        notes = [] if step.dampened else ["no weight was dampened: the model is as it was"]
        for note in notes:
            warnings.warn(note, PotionWarning, stacklevel=2)
        return Unlearned(model, self.name, trace=[step], kept=step, seconds={"edit": seconds}, warnings=notes)
