"""ASSD: SSD with the threshold that eq. 7 of *Potion* gives, taken once (Schoepf et al., 2024)."""

from __future__ import annotations

import time

from pydantic import PositiveFloat
from torch import nn
from typing_extensions import override

from ...edits.plan import EditPlan
from ...importances import Importance
from ...percentiles import percentile_of
from ...search import Step
from ...utils.copies import copy_model
from ...utils.predict import accuracy, predict
from ...utils.warn import warn_caller
from .base import Loaders, Unlearned
from .dampening import Dampening
from .registry import register_unlearner


@register_unlearner("assd")
class ASSD(Dampening):
    """One edit, without b_start and without a search.

    α is the percentile 100 − ln(1 + 100 · |S_f| / |S_tr|) of the ratios of importances.

    Attributes:
        dampening: λ.
    """

    objective = "ssd"

    dampening: PositiveFloat = 1.0

    @override
    def edit(
        self, model: nn.Module, forget: Importance, retain: Importance, loaders: Loaders, progress: bool = False
    ) -> Unlearned:
        start = time.perf_counter()
        share = forget.samples / (retain.total + (0 if self.holds_forget else forget.samples))
        percentile = percentile_of(share)
        model = copy_model(model)
        plan = EditPlan.at_percentiles(model, forget, retain, [percentile], self.dampening)
        plan.apply(0)
        forget_accuracy = accuracy(*predict(model, loaders.forget_evaluation, progress))
        seconds = time.perf_counter() - start
        step = Step(1, share, percentile, float(plan.alphas[0]), forget_accuracy, plan.dampened(0), seconds)
        notes = [] if step.dampened else ["no weight was dampened: the model is as it was"]
        for note in notes:
            warn_caller(note)
        return Unlearned(model, self.name, trace=[step], kept=step, seconds={"edit": seconds}, warnings=notes)
