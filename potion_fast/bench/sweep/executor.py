"""The executor of a sweep's tasks: a training, a crafting, a pass over the training data, an unlearning."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from ...errors import PotionWarning
from ...importances import Objective, importance
from ...importances.objectives import resolve_in_mode
from ..configs import CraftConfig
from ..runs.craft import craft_run
from ..runs.inputs import PERTURBATIONS
from ..runs.stages import train_run
from ..training.train import seeded
from ..unlearners import make_unlearner
from ..unlearners.dampening import Dampening
from .case import UnlearningCase
from .config import SweepConfig
from .plan import Crafting, RetainPass, SweepPlan, Task, Training, Unlearning
from .retain import RetainImportances, shared_retain
from .rows import Row
from .run_dampening import dampened_rows
from .run_finetuning import finetuned_row
from .sweep_folder import SweepFolder
from .trained_model import TrainedModel


class Executor:
    """Does the work of a sweep; the model that was used last stays loaded.

    Args:
        config: of the sweep.
        plan: all of its work.
        folder: where its results are.
        arguments: of the command line, for the command that makes a row again.
        progress: whether progress bars are shown.
    """

    def __init__(
        self,
        config: SweepConfig,
        plan: SweepPlan,
        folder: SweepFolder,
        arguments: Sequence[str],
        progress: bool = False,
    ) -> None:
        self.config, self.plan, self.folder, self.progress = config, plan, folder, progress
        self.arguments = list(arguments)
        self._subject: TrainedModel | None = None

    def run(self, task: Task) -> None:
        """Do a task that is claimed, and whose needs are done.

        Raises:
            PotionError: it cannot be done.
        """
        if isinstance(task, Training):
            self._training(task)
        elif isinstance(task, Crafting):
            self._crafting(task)
        elif isinstance(task, RetainPass):
            self._pass(task)
        else:
            start = time.perf_counter()
            rows = self._unlearning(task)
            self.folder.write(task, rows, time.perf_counter() - start)
            self.folder.drop_unneeded(self.plan.retain_pass(task), self.plan)

    def _training(self, task: Training) -> None:
        config, crafting = task.config, self.plan.crafting(task)
        if crafting is not None:  # from where the sweep's folder is now; the run keeps a copy
            config = config.updated(perturbations=str(self.folder.place(crafting) / PERTURBATIONS))
        with self.folder.made(task) as place:
            train_run(config, place, progress=self.progress)

    def _crafting(self, task: Crafting) -> None:
        """Goes on where an earlier one was killed."""
        clean = self.plan.trainings[task.model]
        machine = {name: getattr(clean.config, name) for name in ("root", "data", "model", "device", "workers")}
        config = CraftConfig(**{"run": str(self.folder.place(clean)), **machine, **task.settings})
        with self.folder.made(task) as place:
            if not (place / "metrics.json").exists():  # else it was killed with nothing left to do
                craft_run(config, place, progress=self.progress)

    def _of(self, model: str) -> TrainedModel:
        if self._subject is None or self._subject.training.key != model:
            self._subject = TrainedModel.load(self.config, self.folder, self.plan.trainings[model])
        return self._subject

    def _pass(self, task: RetainPass) -> None:
        subject = self._of(task.model)
        founds, start = {count: subject.found(count) for count in task.founds}, time.perf_counter()
        with seeded(subject.seed):
            if task.group_size == "batch" or self.config.augmented:
                done = {count: self._own_pass(subject, task, found) for count, found in founds.items()}
            else:
                done = shared_retain(
                    subject.model,
                    subject.scenario.train_set(augment=False),
                    subject.scenario.trained_on,
                    founds,
                    self._objectives(task),
                    task.group_size,
                    batch_size=subject.batch_size,
                    seed=subject.seed,
                    workers=subject.scenario.config.workers,
                    progress=self.progress,
                )
        self.folder.write_retain(task, done, time.perf_counter() - start)

    def _own_pass(self, subject: TrainedModel, task: RetainPass, found: list[int]) -> RetainImportances:
        """Of one S_f alone: shuffled, and augmented where the sweep asks for it."""
        loader, start = subject.retain_loader(found, self.config.augmented), time.perf_counter()
        settings: dict[str, Any] = {"group_size": task.group_size, "progress": self.progress}
        importances = importance(subject.model, loader, self._objectives(task), **settings)
        return importances, time.perf_counter() - start

    def _objectives(self, task: RetainPass) -> tuple[Objective, ...]:
        return tuple(resolve_in_mode(name, None, self.config.mode) for name in task.objectives)

    def _unlearning(self, unit: Unlearning) -> list[Row]:
        subject = self._of(unit.model)
        case = UnlearningCase(self.config, unit, subject, subject.found(unit.found), self.arguments, self.progress)
        settings = {"mode": self.config.mode, "seed": subject.seed, **subject.defaults(unit.method.name)}
        settings |= {**unit.method.settings, **unit.method.limits(subject.iterations)}
        unlearner = make_unlearner(unit.method.name, **settings)
        with warnings.catch_warnings(), seeded(subject.seed):
            warnings.simplefilter("ignore", PotionWarning)  # the rows contain them
            if isinstance(unlearner, Dampening):
                retain_pass = self.plan.retain_pass(unit)
                assert retain_pass is not None
                return list(dampened_rows(case, unlearner, self.folder, retain_pass))
            return [finetuned_row(case, unlearner)]
