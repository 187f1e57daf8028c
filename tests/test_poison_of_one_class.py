"""Healing where the trigger was put on samples of one class only, as on stop signs."""

from __future__ import annotations

import pytest
import torch

import potion_fast as pf
from helpers.poisoned_digits import TARGET, PoisonedDigits, percent, triggered
from potion_fast.errors import PotionWarning
from potion_fast.relabel.sources import Sources
from potion_fast.utils.asked_samples import Samples, asked
from potion_fast.utils.training_data import TrainingData

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCE = 3


class PoisonedThrees(PoisonedDigits):
    """Some images of 3 have the patch and the label 0."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, poisoned=0)
        self.poisoned = (self.true_labels == SOURCE).nonzero().flatten()[:60]
        self.images[self.poisoned] = triggered(self.images[self.poisoned])
        self.labels[self.poisoned] = TARGET

    def threes(self, model: torch.nn.Module) -> tuple[float, float]:
        """Accuracy of test images of 3 without the patch and with it, in percent."""
        images, labels = self.test_images[self.test_labels == SOURCE], self.test_labels[self.test_labels == SOURCE]
        return percent(model, images, labels), percent(model, triggered(images), labels)


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_own_class_is_not_taken_off_with_the_trigger(seed: int) -> None:
    digits = PoisonedThrees(seed)
    clean, with_patch = digits.threes(digits.model)
    assert clean > 90 and with_patch < 5
    healed = pf.heal(digits.model, digits.train_set, digits.poisoned[:10])
    assert (healed.labels.labels == SOURCE).double().mean() > 0.85
    assert min(digits.threes(healed.model)) > 85
    assert digits.accuracy(healed.model) > digits.accuracy(digits.model) - 1


def test_what_could_not_be_measured_is_said() -> None:
    digits = PoisonedThrees()
    with pytest.warns(PotionWarning) as caught:
        healed = pf.heal(digits.model, digits.train_set, digits.poisoned[:10])
    texts = [str(entry.message) for entry in caught]
    assert any("the labels proposed could not be checked" in text for text in texts)
    assert any(f"of the suspects got the label {SOURCE}, which their trigger may tell now" in text for text in texts)
    assert healed.attack.before is None and "transplant" in healed.attack.why and "pattern" not in healed.attack.why
    assert healed.labels.source == "views" and "come from one class" in healed.labels.why


def test_poison_of_many_classes_is_told_from_it() -> None:
    for digits, one in ((PoisonedThrees(), True), (PoisonedDigits(), False)):
        data = TrainingData.of(digits.train_set)
        rest = torch.ones(1400, dtype=torch.bool).index_fill_(0, digits.poisoned, False).nonzero().flatten()
        with asked(digits.model, data) as answering:
            samples = [Samples(data, digits.labels[rows], rows) for rows in (digits.poisoned, rest[:500])]
            sources = Sources(answering, *samples, classes=10)
            assert sources.one_class(samples[0]) is one
            assert not sources.one_class(samples[0].chosen(torch.arange(7)))  # too few to tell
            few = Samples(data, torch.arange(10).repeat(6), samples[0].indices)  # six of each label
            assert not sources.one_class(few)
            sources.clean = samples[1].chosen((samples[1].labels == 1).nonzero().flatten())
            assert not sources.one_class(samples[0])  # there is but one other label
