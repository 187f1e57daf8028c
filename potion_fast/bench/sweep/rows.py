"""A row of a sweep's results: one unlearning, at one ρ and s_step where it searches."""

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
from .trained_model import Measured, Subject, accuracy_on

Row = dict[str, Any]

PHASES = ("training", "forget", "retain", "search", "evaluate")


@dataclass(frozen=True)
class Case:
    """One S_f to be unlearnt from one model by one method.

    found      S_f
    arguments  of the command line
    """

    config: SweepConfig
    unit: Unlearning
    subject: Subject
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
        """What is left of the poison in a model, beside what is known of the unlearning.

        edited  whether the model is the poisoned one but for its parameters
        """
        subject, unit, config = self.subject, self.unit, self.subject.scenario.config
        start = time.perf_counter()
        after = subject.evaluate(model, edited)
        left = accuracy_on(model, subject.forget_loader(self.found, augment=False))
        spent = {**{phase: seconds.get(phase, 0.0) for phase in PHASES}, "evaluate": time.perf_counter() - start}
        before, reference, poison = subject.before.scores, subject.reference, subject.scenario.poison
        scores, (attacked, reached) = after.scores, poison.score_names
        damage = model_damage(scores["clean_accuracy"], before["clean_accuracy"])
        unseen = reference[reached] if poison.unseen_score is None else poison.unseen_score
        notes = [*notes, *notes_of_healing(subject.scenario, damage, before, self.found, rho, reference)]
        row: Row = {
            "preset": self.config.name,
            "attack": subject.training.attack,
            "kind": poison.kind,
            "data": subject.training.data,
            "model": config.model,
            "width": config.width,
            "seed": subject.seed,
            "poisoned": config.poisoned,
            "found": unit.found,
            "share": unit.found / config.poisoned,
            "one_shot": unit.found == 1,
            "method": unit.method.name,
            "budget": unit.method.budget,
            "objective": unit.method.objective,
            "group_size": unit.group_size,
            "rho": rho,
            "s_step": None,
            "strategy": None,
            "settings": {name: value for name, value in unit.method.settings.items() if name not in ("rho", "s_step")},
            "clean_accuracy": scores["clean_accuracy"],
            "triggered_accuracy": scores[attacked],
            "attack_success_rate": scores[reached],
            "found_accuracy": left,
            "before_clean_accuracy": before["clean_accuracy"],
            "before_triggered_accuracy": before[attacked],
            "before_attack_success_rate": before[reached],
            "reference_triggered_accuracy": reference[attacked],
            "reference_clean_accuracy": reference["clean_accuracy"],
            "reference_attack_success_rate": reference[reached],
            "scores": scores,
            "before_scores": before,
            "reference_scores": reference,
            "training_samples": len(subject.scenario.trained_on),
            "training_steps": subject.iterations,
            "poison_healed": poison_healed(scores[attacked], reference[attacked]) if poison.gives_labels else None,
            "poison_removed": poison_removed(before[reached], scores[reached], unseen),
            "model_damage": damage,
            "statistics": _statistics(subject.before, after),
            **dict.fromkeys(("dampened", "alpha", "steps", "evaluations", "reason", "gradient_steps", "learning_rate")),
            "seconds": {**spent, "total": sum(spent[phase] for phase in PHASES if phase != "evaluate")},
            "before_found_accuracy": None,
            "retain_from": None,
            "warnings": notes,
            "command": self.command,
            "trace": None,
        }
        assert set(more) <= set(row), sorted(set(more) - set(row))
        return {**row, **more, **subject.scenario.facts}


def _statistics(before: Measured, after: Measured) -> dict[str, list[float]] | None:
    """Of Gaussian noise: how much the model depends on it before and after, and on noise that it never saw."""
    if before.statistics is None or after.statistics is None or after.fresh is None:
        return None
    return {"before": before.statistics, "after": after.statistics, "fresh": after.fresh}
