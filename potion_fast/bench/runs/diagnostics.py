"""What deserves a second look about an attack or its unlearning, as sentences."""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..attacks import TriggerWord
from .inputs import Accuracies
from .scenario import Scenario

LEARNT = 0.8  # attack success rate before from which "poison healed" counts; of a swap: rate of labels memorised
SEEN = 2.576  # of gus_z: noise that the model never saw exceeds it, with either sign, one time in a hundred
LOST = 0.02  # of test accuracy, from which an indiscriminate attack counts
COLLAPSED = -20.0  # percentage points of model damage


def notes_of_training(scenario: Scenario, scores: Accuracies) -> list[str]:
    """Whether the attack on a model did what it is for; nothing of a model that was trained without it."""
    without = None if scenario.config.leave_out_poisoned else _without_effect(scenario, scores, None, past=False)
    return [] if without is None else [without]


def notes_of_healing(
    scenario: Scenario,
    damage: float,
    before: Accuracies,
    found: Collection[int],
    rho: float | None,
    reference: Accuracies | None = None,
) -> list[str]:
    """The same after unlearning S_f.

    rho                of a search; None where there was none
    before, reference  scores of the poisoned model, and of one without any poison where there is one
    """
    notes = []
    if not damage >= COLLAPSED:
        notes.append(f"the model collapsed: it lost more than {-COLLAPSED:g} points of clean accuracy")
    without = _without_effect(scenario, before, reference, past=True)
    if without is not None:
        notes.append(without)
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


def _without_effect(scenario: Scenario, scores: Accuracies, reference: Accuracies | None, *, past: bool) -> str | None:
    """That an attack did not reach as much as it must, to count; None where it did.

    past  whether it is told of the model before unlearning
    """
    kind, reached = scenario.poison.kind, scores[scenario.poison.scores[1]]
    before, counts = (" before", "does not count") if past else ("", "will not count")
    if kind in ("trigger", "swap"):
        succeeds, gives = ("succeeded", "gave") if past else ("succeeds", "gives")
        fewer = f"fewer than {LEARNT:.0%} of the"
        words = f"the attack {succeeds} on {fewer} triggered test images"
        if kind == "swap":
            words = f"the model {gives} {fewer} mislabelled training images their wrong label"
        return f"{words}{before}: poison healed {counts}" if reached < LEARNT else None
    if isinstance(scenario.poison, TriggerWord):
        succeeds = "succeeded" if past else "succeeds"
        few = f"the attack {succeeds} on fewer than {LEARNT:.0%} of the test reviews with the word{before}"
        return f"{few}: poison healed {counts}" if reached < LEARNT else None
    if kind == "targeted":
        was = "was" if past else "is"
        return None if reached else f"no target {was} given the intended label{before}: poison healed {counts}"
    if kind == "gaussian":
        z = scores["gus_z"]
        trace = f"the noise left no trace{before} that can be told from chance"
        return None if abs(z) >= SEEN else f"{trace}: gus_z is {z:.2f}, within ±{SEEN}"
    if reference is None or reached - reference["test_error"] >= LOST:
        return None
    lost = 100 * (reached - reference["test_error"])
    return f"the attack cost {lost:.1f} points of test accuracy{before}, fewer than {100 * LOST:g}"
