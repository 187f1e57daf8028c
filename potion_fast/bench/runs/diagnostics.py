"""Diagnostics of an attack and of its unlearning, as sentences."""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..attacks import Scores
from .scenario import Scenario

COLLAPSED = -20.0  # percentage points of model damage


def notes_of_training(scenario: Scenario, scores: Scores) -> list[str]:
    """Whether the attack on a model did what it is for; nothing of a model that was trained without it."""
    if scenario.config.leave_out_poisoned:
        return []
    note = scenario.poison.effect_note(scores, None, past=False, sample=scenario.sample)
    return [] if note is None else [note]


def notes_of_healing(
    scenario: Scenario,
    damage: float,
    before: Scores,
    found: Collection[int],
    rho: float | None,
    reference: Scores | None = None,
) -> list[str]:
    """The same after unlearning S_f, with what is odd about the unlearning itself.

    Args:
        scenario: data of the model.
        damage: what clean accuracy it lost, in percentage points; negative where it lost some.
        before: scores of the poisoned model.
        found: S_f.
        rho: of a search; None where there was none.
        reference: scores of a model without any poison; None where there is none.

    Returns:
        A sentence for each.
    """
    notes = []
    if not damage >= COLLAPSED:
        notes.append(f"the model collapsed: it lost more than {-COLLAPSED:g} points of clean accuracy")
    note = scenario.poison.effect_note(before, reference, past=True, sample=scenario.sample)
    if note is not None:
        notes.append(note)
    if rho is not None and (share := _truly_labelled(scenario, found)) > rho:
        notes.append(
            f"{share:.0%} of the samples of S_f bear their true label, more than rho = {rho:g}: the search has to go "
            "on until the model gets some of these wrong"
        )
    return notes


def _truly_labelled(scenario: Scenario, found: Collection[int]) -> float:
    """Share of these training samples that are given the label that they have without the poison, in [0, 1]."""
    rows = torch.tensor(list(found))
    given, true = scenario.train_set(augment=False).labels[rows], scenario.splits.train.labels[rows]
    return float((given == true).double().mean())
