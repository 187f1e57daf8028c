"""Rows of the methods that take no importances, with the loaders of the training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Subset

from ..runs.scenario import Scenario
from ..unlearners import Loaders, TrainingIndex, Unlearner
from .case import UnlearningCase
from .rows import Row


def finetuned_row(case: UnlearningCase, unlearner: Unlearner) -> Row:
    """The row of a method that takes no importances. Raises the errors of the method."""
    subject, scenario, found = case.subject, case.subject.scenario, case.found
    clean_samples = subject.config.clean_samples
    loaders = Loaders(
        forget=scenario.forget_loader(found, augment=True, batch_size=None),
        retain=scenario.retain_loader(found, holds_forget=False, batch_size=None, seed=subject.seed),
        evaluation=subject.forget_loader(found, augment=False),
        validation=subject.validation_loader(),
        training=training_index(scenario, found),
        clean=scenario.clean_part(clean_samples, seed=subject.seed) if clean_samples else None,
    )
    unlearned = unlearner(subject.model, loaders, progress=case.progress)
    untouched = unlearned.method == "none"  # all others change the running statistics too
    notes = list(unlearned.warnings)
    if getattr(unlearner, "rates", None) is not None and not scenario.validation:
        notes.append("the learning rate was chosen by the test set, as there is no validation set")
    return case.row(
        unlearned.model,
        edited=untouched,
        seconds=unlearned.seconds,
        notes=notes,
        gradient_steps=unlearned.gradient_steps,
        learning_rate=unlearned.learning_rate,
    )


def training_index(scenario: Scenario, found: Sequence[int]) -> TrainingIndex:
    """The training data of a scenario, by index. The test set is no held-out data."""
    trained_on, size = scenario.trained_on, scenario.config.batch_size
    assert size is not None  # resolved
    return TrainingIndex(
        train_set=Subset(scenario.train_set(augment=True), trained_on),
        found=np.searchsorted(trained_on, sorted(found)).tolist(),
        plain_set=Subset(scenario.train_set(augment=False), trained_on),
        held_out=Subset(scenario.splits.dataset("train"), scenario.validation) if scenario.validation else None,
        batch_size=size,
    )
