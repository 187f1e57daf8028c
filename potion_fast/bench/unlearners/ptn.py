"""PTN: dampen more and more until the accuracy on S_f has fallen (paper A, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...importances import Importance
from ...search import check_options, ptn_search
from .base import Loaders, Unlearned
from .dampening import Dampening
from .registry import register_unlearner


@dataclass(frozen=True, kw_only=True)
class PTN(Dampening):
    """The search of `ptn_search`, where all settings are described."""

    strategy: str = "sequential"
    rho: float = 0.2
    b_start: float | None = None
    s_step: float | None = None
    max_steps: int = 500
    strict: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self.rho, self.b_start, self.s_step, self.max_steps, self.strategy)

    def edit(
        self, model: nn.Module, forget: Importance, retain: Importance, loaders: Loaders, progress: bool = False
    ) -> Unlearned:
        result = ptn_search(
            model,
            forget,
            retain,
            loaders.forget_evaluation,
            strategy=self.strategy,
            rho=self.rho,
            mode=self.mode,
            b_start=self.b_start,
            s_step=self.s_step,
            max_steps=self.max_steps,
            strict=self.strict,
            retain_holds_forget=None if self.strategy == "minimal" else self.holds_forget,
            progress=progress,
        )
        return Unlearned(
            result.model,
            self.name,
            trace=result.trace,
            kept=result.kept,
            seconds=result.seconds,
            report=result,
            warnings=result.warnings,
        )


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
