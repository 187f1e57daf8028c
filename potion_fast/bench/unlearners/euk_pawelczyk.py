"""EUk of Pawelczyk et al.: the last layers of any model are trained again without what was found (appendix C.2.4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from typing_extensions import override

from .cfk_pawelczyk import CFkPawelczyk
from .finetuning import reinitialised
from .registry import register_unlearner


@register_unlearner("euk-pawelczyk")
class EUkPawelczyk(CFkPawelczyk):
    """The last k layers, as of CFk, are re-initialised and trained on the retain set."""

    @override
    def prepare(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return reinitialised(*super().prepare(model))
