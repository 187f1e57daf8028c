"""GD: continued gradient descent without what was found (Pawelczyk et al., appendix C.2.1)."""

from __future__ import annotations

from .epochs import PawelczykFinetuning
from .registry import register_unlearner


@register_unlearner("gd")
class GD(PawelczykFinetuning):
    """θ ← θ − η g, where g is the gradient of a batch of the retain set, by SGD with momentum and weight decay.

    CF with Pawelczyk et al.'s settings: learning rate 1e-3, constant; 2, 4, 6, 8 or 10 epochs.
    """
