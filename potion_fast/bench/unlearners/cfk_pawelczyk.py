"""CFk of Pawelczyk et al.: the last layers of any model are trained further without what was found (appendix C.2.5)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import nn
from typing_extensions import override

from ...utils.copies import copy_model
from ..models.last_layers import last_layers
from .epochs import PawelczykFinetuning
from .registry import register_unlearner


@register_unlearner("cfk-pawelczyk")
class CFkPawelczyk(PawelczykFinetuning):
    """The last k layers are trained further on the retain set; the others stay, batch norms in evaluation mode.

    Pawelczyk et al. do not say what a layer is: here the last k convolutions and linear layers with the batch norms
    behind the first of them, see `last_layers`. Its learning rates are 1e-3, 1e-4 and 1e-5.

    Attributes:
        k: number of layers.
    """

    k: PositiveInt = 3

    @override
    def prepare(self, model: nn.Module) -> tuple[nn.Module, Sequence[str] | None]:
        return copy_model(model), last_layers(model, self.k)
