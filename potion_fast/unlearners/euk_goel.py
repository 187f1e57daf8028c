"""EUk of Goel et al.: the end of the model forgets all, and is trained again without what was found."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models import initialise, last_modules
from ..training import seeded
from .base import Unlearned
from .trained import Trained


@dataclass(frozen=True, kw_only=True)
class EUkGoel(Trained):
    """The last k layers are re-initialised and trained on the retain set; the others stay as they are, batch norms in
    evaluation mode.

    k  see `last_modules`; the public code's 2 and 4 of ResNet-9, 5 and 13 of WRN-28-10. None: the smaller
    """

    name = "euk-goel"

    k: int | Sequence[str] | None = None

    def __call__(
        self,
        model: nn.Module,
        forget_loader: Iterable[Any],
        retain_loader: Iterable[Any],
        *,
        evaluation_loader: Iterable[Any] | None = None,
        validation_loader: Iterable[Any] | None = None,
        progress: bool = False,
    ) -> Unlearned:
        end = last_modules(model, self.k)
        model = copy.deepcopy(model)
        with seeded(self.seed):
            for name in end:
                initialise(model.get_submodule(name))
            return self.trained(model, retain_loader, validation_loader, progress, only=end)
