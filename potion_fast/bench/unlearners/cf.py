"""Catastrophic forgetting (CF and CF-k): continued training without what was found, in the hope that it fades."""

from __future__ import annotations

from .finetuning import Finetuning, LastLayersFinetuning
from .registry import register_unlearner


@register_unlearner("cf")
class CF(Finetuning):
    """The whole model is trained further on the retain set (k = -1 in the public code)."""


@register_unlearner("cf-k")
class CFk(LastLayersFinetuning):
    """The last k layers are trained further on the retain set."""
