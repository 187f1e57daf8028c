"""EUk of Goel et al.: the end of the model forgets all, and is trained again without what was found."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .finetuning import OnlyTheEnd, reinitialised


class EUkGoel(OnlyTheEnd):
    """The last k layers are re-initialised and trained on the retain set."""

    name = "euk-goel"

    def begun(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return reinitialised(*super().begun(model))
