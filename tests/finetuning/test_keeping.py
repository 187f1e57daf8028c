"""Which model is kept, and what is said of it."""

from __future__ import annotations

import pytest
import torch

from potion_fast.finetuning.keeping import chosen, clean_change, damage, verdict
from potion_fast.finetuning.predictions import Predictions
from potion_fast.finetuning.result import DAMAGED, NO_STEP, STILL_POISONED, UNLEARNT, Evaluation


def evaluation(step, poison, change, error=0.0):
    return Evaluation(step, 0.01, 1.0, poison, poison, 0.9 + change / 100, change, error)


START = evaluation(0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("later", "kept", "reason"),
    [
        ([(0.1, -2.0), (0.05, -0.4), (0.05, -0.2)], 3, UNLEARNT),
        ([(0.0, -0.4), (0.15, -0.1), (0.04, -2.0)], 1, UNLEARNT),  # less poison comes first, up to a tie
        ([(0.03, -0.4), (0.04, -0.1)], 2, UNLEARNT),
        ([(0.1, -3.0), (0.1, -1.0), (0.1, -2.0)], 2, DAMAGED),
        ([(0.9, 0.0), (0.5, -0.2)], 2, STILL_POISONED),
        ([(1.0, -0.1), (1.0, -0.4)], 0, NO_STEP),
        ([(0.1, -88.0)], 0, NO_STEP),  # ruin is no healing
    ],
)
def test_the_kept_model(later, kept, reason):
    trace = [START, *(evaluation(10 * i, *entry) for i, entry in enumerate(later, start=1))]
    assert chosen(trace, 0.5) == (kept, reason)
    texts = verdict(trace, kept, reason, 0.5, "100 samples")
    assert (not texts) == (reason == UNLEARNT)


def test_the_kept_one_is_the_one_before_or_the_newest():
    """So one copy of the weights is enough."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        trace, before = [START], 0
        for step in range(1, 6):
            poison, change = torch.rand(2, generator=generator).tolist()
            trace.append(evaluation(step, poison**3, 3 * (0.3 - change)))
            kept, _ = chosen(trace, 0.5)
            assert kept in (before, step)
            before = kept


def test_what_chance_explains_is_no_damage():
    assert damage(evaluation(1, 0.0, -1.0, 0.5)) == pytest.approx(0.18)
    assert damage(evaluation(1, 0.0, -0.8, 0.5)) == damage(evaluation(1, 0.0, 2.0)) == 0
    assert "2.0 ± 0.5 points" in verdict([START, evaluation(1, 0.0, -2.0, 0.5)], 1, DAMAGED, 0.5, "100 samples")[0]


def test_training_samples_that_are_lost_count_for_a_part_and_unseen_ones_whole():
    labels = torch.zeros(10, dtype=torch.int64)
    before = Predictions(labels, torch.tensor([1.0] * 9 + [-1.0]))
    after = Predictions(labels, torch.tensor([-1.0] * 3 + [1.0] * 7))  # three are lost, one is gained
    change, error = clean_change(before, after, unseen=True)
    assert change == pytest.approx(-20) and error == pytest.approx(100 * (0.36 / 10) ** 0.5)
    part = clean_change(before, after, unseen=False)
    assert part == pytest.approx((-8, 0.4 * error))
