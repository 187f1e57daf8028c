"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .fields import Checked
from .machine import absolute_paths, resolved_device


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Evaluating the model of a training or an unlearning run again.

    run        folder of the run
    root       folder of the data; None: where the training run read them
    data       see `UnlearnConfig`
    reference  folder of a training run without any of S_m, for *poison healed*; None: not computed
    """

    run: str
    root: str | None = None
    data: str | None = None
    reference: str | None = None
    device: str = "auto"
    workers: int = 0

    def resolved(self) -> EvaluateConfig:
        """With absolute paths. Raises ModelError for a device that is not there."""
        return replace(self, **absolute_paths(self), device=resolved_device(self.device))
