"""EUk of Goel et al.: the end of the model forgets all, and is trained again without what was found."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from typing_extensions import override

from .finetuning import LastLayersFinetuning, reinitialised
from .registry import register_unlearner


@register_unlearner("euk-goel")
class EUkGoel(LastLayersFinetuning):
    """The last k layers are re-initialised and trained on the retain set."""

    @override
    def prepare(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return reinitialised(*super().prepare(model))
