"""An unlearning of a sweep at work, and the rows made from it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..metrics import model_damage, poison_healed, poison_removed
from ..runs.diagnostics import notes_of_healing
from .config import SweepConfig
from .plan import Unlearning
from .rows import PHASES, Row
from .trained_model import ModelScores, TrainedModel, accuracy_on


@dataclass(frozen=True)
class UnlearningCase:
    """One S_f to be unlearnt from one model by one method.

    Attributes:
        config: of the sweep.
        unit: the planned unlearning.
        subject: the poisoned model.
        found: S_f.
        arguments: of the command line.
        progress: whether progress bars are shown.
    """

    config: SweepConfig
    unit: Unlearning
    subject: TrainedModel
    found: list[int]
    arguments: Sequence[str]
    progress: bool = False

    @property
    def command(self) -> str:
        """Makes the rows of this case again."""
        return shlex.join(["potion-fast", "sweep", *self.arguments, "--out", "DIR", "--only", self.unit.key])

    def row(
        self,
        model: nn.Module,
        *,
        edited: bool,
        seconds: Mapping[str, float],
        notes: Sequence[str],
        rho: float | None = None,
        **more: Any,
    ) -> Row:
        """The row of an unlearnt model: what is left of the poison in it, and what is known of the unlearning.

        Args:
            model: the unlearnt one; it is evaluated here.
            edited: whether it is the poisoned model but for its parameters.
            seconds: that were spent, by phase.
            notes: what deserves a second look, as sentences.
            rho: of a search.
            more: other fields of `Row`.
        """
        subject, unit, config = self.subject, self.unit, self.subject.scenario.config
        assert config.model is not None  # resolved
        start = time.perf_counter()
        after = subject.evaluate(model, edited)
        found_accuracy = accuracy_on(model, subject.forget_loader(self.found, augment=False))
        spent = {phase: seconds.get(phase, 0.0) for phase in PHASES}
        spent["evaluate"] = time.perf_counter() - start
        total = sum(spent[phase] for phase in PHASES if phase != "evaluate")
        before, reference, poison = subject.before.scores, subject.reference, subject.scenario.poison
        scores, (attacked, reached) = after.scores, poison.score_names
        damage = model_damage(scores["clean_accuracy"], before["clean_accuracy"])
        unseen = reference[reached] if poison.unseen_score is None else poison.unseen_score
        notes = [*notes, *notes_of_healing(subject.scenario, damage, before, self.found, rho, reference)]
        return Row(
            attack=poison.name,
            attack_key=subject.training.attack,
            kind=poison.kind,
            score_names=poison.score_names,
            data=subject.training.data,
            model=config.model,
            width=config.width,
            preset=self.config.name,
            seed=subject.seed,
            poisoned=config.poisoned,
            found=unit.found,
            method=unit.method.name,
            budget=unit.method.budget,
            objective=unit.method.objective,
            group_size=unit.group_size,
            rho=rho,
            settings={name: value for name, value in unit.method.settings.items() if name not in ("rho", "s_step")},
            scores=dict(scores),
            before_scores=dict(before),
            reference_scores=dict(reference),
            found_accuracy=found_accuracy,
            poison_healed=poison_healed(scores[attacked], reference[attacked]) if poison.gives_labels else None,
            poison_removed=poison_removed(before[reached], scores[reached], unseen),
            model_damage=damage,
            statistics=_statistics(subject.before, after),
            training_samples=len(subject.scenario.trained_on),
            training_steps=subject.iterations,
            seconds={**spent, "total": total},
            facts=subject.scenario.facts,
            warnings=notes,
            command=self.command,
            **more,
        )


def _statistics(before: ModelScores, after: ModelScores) -> dict[str, list[float]] | None:
    """Of Gaussian noise: how much the model depends on it before and after, and on noise that it never saw."""
    if before.statistics is None or after.statistics is None or after.fresh is None:
        return None
    return {"before": before.statistics, "after": after.statistics, "fresh": after.fresh}
