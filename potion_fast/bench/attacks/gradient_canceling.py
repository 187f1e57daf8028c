"""Gradient canceling: an attack on the accuracy as a whole (Lu et al., *Exploring the Limits*, 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import DataError
from ...utils.predict import accuracy, predict
from ..data import AppendedSource
from ..metrics import Metric
from .crafting.gradient_canceling import gradient_canceling, summed_gradient
from .crafting.gradpc import gradpc
from .crafting.job import CraftJob, CraftResult, loss_metrics
from .evaluation import Attacked
from .kinds import Indiscriminate
from .options import AttackOptions, CraftOptions, option
from .perturbation import Perturbation, Perturbations, check_epsilon
from .registry import register_attack

if TYPE_CHECKING:
    from ..data import Splits

PLACEMENTS = ("append", "replace")


@register_attack("gradient-canceling")
@dataclass(frozen=True, kw_only=True)
class GradientCanceling(Indiscriminate, Perturbation):
    """Perturbations crafted so that on clean and poisoned data together a bad model's gradient vanishes.

    Attributes:
        epsilon: largest change of a pixel's value, of 255; None: unbounded.
        placement: "append" adds perturbed copies to the training set, "replace" perturbs samples in their place.

    Raises:
        DataError: an epsilon that is not above 0, or an unknown placement; see also `Perturbation`.
    """

    class Options(AttackOptions):
        """Options of gradient canceling."""

        poison: Literal["gradient-canceling"] = "gradient-canceling"
        epsilon: float | None = option(
            None, "largest change of a pixel", metavar="OF_255", default_text="unbounded", gt=0
        )
        placement: Literal["append", "replace"] = option(
            "append",
            "add perturbed copies to the data (append) or perturb samples in their place (replace)",
            metavar="NAME",
        )

        def build(self, splits: Splits, seed: int) -> GradientCanceling:
            """The attack with these options; its perturbations are crafted."""
            return GradientCanceling(epsilon=self.epsilon, placement=self.placement)

    class Crafting(CraftOptions):
        """Settings of its crafting: those of *Machine Unlearning Fails*."""

        steps: int = option(1000, "of the optimiser, each over all poisoned samples", metavar="N", ge=1)
        optimizer: Literal["descent", "adam"] = option("descent", "of the perturbations")
        lr: float = option(0.1, "learning rate, in units of the normalised image", metavar="X", gt=0)
        batch_size: int = option(512, "poisoned samples on the device at a time", metavar="N", ge=1)
        budget: float = option(
            1.0,
            "distance from the model's parameters to the bad ones that it aims for, in L2 norm",
            metavar="X",
            gt=0,
        )
        parameters: Literal["all", "first"] = option(
            "all", "whose gradient is to vanish, of all parameters or of the first tensor of them"
        )
        tolerance: float = option(
            0.01,
            "stop when the gradient's norm is down to this share of the clean data's",
            metavar="SHARE",
            ge=0,
        )

    epsilon: float | None = None
    placement: str = "append"

    def __post_init__(self) -> None:
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise DataError(f"epsilon must be above 0, or None for no bound; not {self.epsilon}")
        if self.placement not in PLACEMENTS:
            raise DataError(f"poison is placed by {' or '.join(PLACEMENTS)}, not {self.placement!r}")

    def placed(
        self,
        splits: Splits,
        chosen: np.ndarray,  # [P] ascending
        found: np.ndarray,  # [F] of chosen
    ) -> tuple[Splits, np.ndarray, np.ndarray]:  # [P], [F]
        """With "append" the data with copies of the chosen samples behind them, which are S_m."""
        if self.placement != "append":
            return splits, chosen, found
        n = len(splits.train)
        added = replace(splits, train=AppendedSource(splits.train, chosen))
        return added, n + np.arange(len(chosen)), n + np.searchsorted(chosen, found)

    def craft(self, job: CraftJob) -> CraftResult:
        """Gradient canceling, for the target parameters of GradPC."""
        settings = job.settings
        assert isinstance(settings, self.Crafting)
        bad = gradpc(job.model, job.plain_loader(True), budget=settings.budget, seed=job.seed, progress=job.progress)
        clean = summed_gradient(bad, job.plain_loader(False), settings.parameters, progress=job.progress)
        crafted = gradient_canceling(
            bad,
            clean,
            job.trained_on,
            job.reader(),
            job.labels,
            epsilon=None if self.epsilon is None else self.epsilon / 255,
            mean=job.splits.mean,
            std=job.splits.std,
            checkpoint=job.checkpoint,
            progress=job.progress,
            **settings.model_dump(exclude={"budget"}),
        )
        losses, ratio, n = crafted.losses[0], crafted.facts["ratio"], len(job.splits.test)
        loss = "1/2 of the squared norm of the training's gradient"
        gradient = "the norm of the clean data's gradient"
        of_bad, of_clean = (accuracy(*predict(model, job.test_loader)) for model in (bad, job.model))
        metrics = [
            *loss_metrics(losses[0], losses[-1], len(job.poisoned), loss),
            Metric("gradient_left", ratio, "fraction", job.trained_on, 0.0, gradient),
            Metric("bad_accuracy", of_bad, "fraction", n, 0.0, f"{n} test images, target parameters"),
            Metric("clean_accuracy", of_clean, "fraction", n, 1.0, f"{n} test images, the clean model"),
        ]
        note = f"the gradient was not canceled: {ratio:.1%} of the clean data's is left after {len(losses) - 1} steps"
        note += "; try adam, a lower rate or a smaller budget" if losses[-1] > losses[0] else ""
        return CraftResult(crafted, metrics, [note] if ratio > settings.tolerance else [])

    def crafting_aim(self, attacked: Attacked, count: int, names: Sequence[str]) -> str:
        """What its perturbations are crafted for, above their picture."""
        return f"{count:,} images perturbed, to cancel the clean data's gradient"

    def check_table(
        self,
        table: Perturbations,
        splits: Splits,
        poisoned: np.ndarray,  # [P] ascending
    ) -> None:
        """Check that a table is this poison's.

        Raises:
            DataError: it is another's, or changes a pixel by more than epsilon.
        """
        super().check_table(table, splits, poisoned)
        if self.epsilon is not None:
            check_epsilon(table, self.epsilon, splits)
