"""What an unlearning is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ...importances.objectives import resolve
from ...modes import GroupSize
from ...search import SearchOptions
from .fields import Checked
from .machine import absolute_paths, resolved_device


@dataclass(frozen=True)
class UnlearnConfig(Checked):
    """Healing the model of a training run.

    run         folder of the training run
    root        folder of the data; None: where the training run read them
    data        of a training on a "module:factory": the same name, typed by you; a file alone does not make code run
    forget      file of the indices of S_f; None: found.txt of the training run
    reference   folder of a training run without any of S_m, for *poison healed*; None: not computed
    curve       also evaluate the test set along the search, for the picture
    the others  see `unlearn`; batch_size None is the training's
    """

    run: str
    root: str | None = None
    data: str | None = None
    forget: str | None = None
    reference: str | None = None
    objective: str | None = None
    w: float | None = None
    mode: str = "default"
    group_size: GroupSize | None = None
    amp: Literal["bfloat16", "float16"] | None = None
    compiled: bool = False
    strategy: str = "sequential"
    rho: float = 0.2
    b_start: float | None = None
    s_step: float | None = None
    max_steps: int = 500
    batch_size: int | None = None
    curve: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> UnlearnConfig:
        """With the mode's defaults filled in and absolute paths. Raises SearchError, ImportanceError or ModelError."""
        search = SearchOptions.of(self).resolved()
        resolve(self.objective, self.w)  # raises where no objective is meant by them
        return replace(
            self,
            **absolute_paths(self),
            objective="xlf" if self.objective is None and self.w is None else self.objective,
            b_start=search.b_start,
            s_step=search.s_step,
            device=resolved_device(self.device),
        )
