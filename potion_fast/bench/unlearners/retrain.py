"""Retraining within the budget of an unlearner: what each must beat to be of use (Pawelczyk et al., table 2)."""

from __future__ import annotations

from .epochs import EpochFinetuning
from .eu import EU
from .registry import register_unlearner


@register_unlearner("retrain")
class Retrain(EpochFinetuning, EU):  # type: ignore[misc]  # `iterations` may be None, as of EpochFinetuning
    """EU with a budget: an untrained model, trained on the retain set for as long as the others may unlearn.

    The schedule of the learning rate is the training's, run through within the budget.
    """
