"""Regularity of poison: a trigger is told from swapped labels, and one sample tells nothing."""

from __future__ import annotations

import pytest
import torch

from helpers.poisoned_digits import PoisonedDigits
from helpers.swapped_digits import SwappedDigits
from potion_fast.detection.features import Features, features_of
from potion_fast.detection.held_out_probe import held_out_logits
from potion_fast.detection.regularity import regularity
from potion_fast.utils.training_data import TrainingData


class Judged:
    """Poisoned data, the features of a network trained on them, and the probe's logits."""

    def __init__(self, digits: PoisonedDigits) -> None:
        self.digits = digits
        self.features = features_of(digits.model, TrainingData.of(digits.train_set))
        self.logits = held_out_logits(self.features)

    def of(self, right: int, wrong: int = 0, seed: int = 0):
        """Regularity of poisoned samples and of clean ones with the same labels."""
        generator = torch.Generator().manual_seed(seed)
        poisoned = self.digits.poisoned
        found = poisoned[torch.randperm(len(poisoned), generator=generator)[:right]]
        clean = torch.isin(self.digits.labels, self.digits.labels[found])
        clean[poisoned] = False
        others = clean.nonzero()[:, 0]
        others = others[torch.randperm(len(others), generator=generator)[:wrong]]
        return regularity(self.features, torch.cat([found, others]), logits=self.logits)


@pytest.fixture(scope="module")
def trigger() -> Judged:
    return Judged(PoisonedDigits())


@pytest.fixture(scope="module", params=[True, False], ids=["interclass", "random"])
def swap(request: pytest.FixtureRequest) -> Judged:
    return Judged(SwappedDigits(interclass=request.param))


@pytest.mark.parametrize(("right", "wrong"), [(20, 0), (5, 0), (10, 10)])
def test_a_trigger_is_a_rule(trigger: Judged, right: int, wrong: int) -> None:
    judged = trigger.of(right, wrong)
    assert (judged.kind, judged.sure) == ("trigger", True)
    assert judged.value > 0.8
    assert "follow a rule" in judged.why


def test_swapped_labels_are_none(swap: Judged) -> None:
    judged = swap.of(20)
    assert (judged.kind, judged.sure) == ("swap", True)
    assert judged.value < 0.7
    assert "one by one" in judged.why
    assert swap.of(5).kind == "swap"


def test_one_sample_tells_no_rule(trigger: Judged, swap: Judged) -> None:
    for judged in (trigger.of(1), swap.of(1)):
        assert (judged.kind, judged.sure) == ("trigger", False)
        assert "one found sample tells no rule" in judged.why


def test_the_value_is_the_share_that_the_probe_agrees_with(swap: Judged) -> None:
    found = swap.digits.poisoned[:7]
    agree = swap.logits[found].argmax(1) == swap.features.labels[found]
    assert regularity(swap.features, found).value == agree.double().mean().item()


def test_the_probe_does_not_see_the_label_that_it_judges() -> None:
    generator = torch.Generator().manual_seed(0)
    samples, classes = 300, 3
    points = torch.randn(samples, 200, generator=generator)  # features in which every label can be memorised
    labels = torch.randint(classes, (samples,), generator=generator)
    features = Features(points, labels, torch.zeros(samples), labels, labels, classes, "head")
    agreement = (held_out_logits(features).argmax(1) == labels).float().mean()
    assert 0.2 < agreement < 0.47  # chance, within four standard errors
