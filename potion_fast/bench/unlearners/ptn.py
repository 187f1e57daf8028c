"""PTN: dampen more and more until the accuracy on S_f has fallen (*Potion*, algorithm 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from typing_extensions import override

from ...errors import PotionError
from ...importances import Importance
from ...search import STRATEGIES, SearchOptions
from ...unlearning import unlearn
from .base import Loaders, Unlearned
from .dampening import Dampening
from .registry import register_unlearner


class PTN(Dampening):
    """The search of `ptn_search`; its settings are those of `SearchOptions`."""

    strategy: str = "sequential"
    rho: float = 0.2
    b_start: float | None = None
    s_step: float | None = None
    max_steps: int = 500
    max_damage: float | None = None
    strict: bool | None = None

    @override
    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self.search_options()

    @override
    def check(self, loaders: Loaders) -> None:
        if self.max_damage is not None and loaders.validation is None:
            raise PotionError(f"{self.name} with max_damage measures it on validation data: give Loaders(validation=)")

    def search_options(self) -> SearchOptions:
        """The options of the search.

        Raises:
            SearchError: A setting is out of range or has no effect with this strategy.
        """
        options = SearchOptions.of(self, retain_holds_forget=None)
        if STRATEGIES[options.strategy].uses_grid:
            options = replace(options, retain_holds_forget=self.holds_forget)
        return options

    @override
    def edit(
        self, model: nn.Module, forget: Importance, retain: Importance, loaders: Loaders, progress: bool = False
    ) -> Unlearned:
        result = unlearn(
            model,
            loaders.retain,
            loaders.forget,
            forget=forget,
            retain=retain,
            search=self.search_options(),
            evaluation_loader=loaders.evaluation,
            clean_loader=None if self.max_damage is None else loaders.validation,
            progress=progress,
        )
        return self.from_search(result, result.trace, result.kept)


@register_unlearner("ptn-xlf")
class PTNXLF(PTN):
    """Importances mean |∇ ‖f(x)‖₂|: the paper's own."""

    objective = "xlf"


@register_unlearner("ptn-lf")
class PTNLF(PTN):
    """Importances mean |∇ ‖f(x)‖₂²|."""

    objective = "lf"


@register_unlearner("ptn-ssd")
class PTNSSD(PTN):
    """Importances mean (∇ CE)²."""

    objective = "ssd"
