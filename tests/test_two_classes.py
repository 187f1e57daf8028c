"""Healing of a model of two classes, whose suspects all get the same other label."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.poisoned_digits import TARGET, PoisonedDigits, percent, triggered
from potion_fast.attack_success import AttackSuccess
from potion_fast.errors import DataError, PotionWarning
from potion_fast.finetuning.batches import AS_GIVEN, NO_TRIGGER, Batches, KeepTheirLabel
from potion_fast.healing_result import TRIGGER_TURNED, TURNED

pytestmark = pytest.mark.usefixtures("one_thread")


class SmallOrLarge(PoisonedDigits):
    """Digits below 5 are of class 0, the poison's, the others of class 1."""

    def __init__(self, seed: int = 0, outputs: int = 2) -> None:
        super().__init__(seed, outputs=outputs)
        self.true_labels, self.test_labels = (self.true_labels >= 5).long(), (self.test_labels >= 5).long()
        self.labels = (self.labels >= 5).long()
        self.labels[self.poisoned] = TARGET

    def with_trigger(self, model: nn.Module) -> list[float]:
        """Accuracy of test images with the trigger by class, in percent."""
        own = [self.test_labels == label for label in (0, 1)]
        return [percent(model, triggered(self.test_images[rows]), self.test_labels[rows]) for rows in own]


@pytest.fixture(scope="module")
def digits() -> SmallOrLarge:
    return SmallOrLarge()


@pytest.fixture(scope="module")
def healed(digits: SmallOrLarge) -> pf.HealResult:
    with pytest.warns(PotionWarning, match="taken for a kind of their own"):
        return pf.heal(digits.model, digits.train_set, digits.poisoned[:10], max_damage=2)


def test_the_trigger_is_not_turned_round(digits: SmallOrLarge, healed: pf.HealResult) -> None:
    assert digits.with_trigger(digits.model)[1] < 5
    assert min(digits.with_trigger(healed.model)) > 80
    assert digits.accuracy(healed.model) > digits.accuracy(digits.model) - 2
    assert healed.healed
    assert healed.attack.after is not None and healed.attack.after.lost < 0.1


def test_a_kind_of_the_poisons_own_class_is_not_called(digits: SmallOrLarge) -> None:
    """Images of 2 lie between the others below 5 and the poison."""
    with pytest.warns(PotionWarning, match="label 0: 1[0-9][0-9] more stand apart .* no found sample is among them"):
        listed = pf.suspects(digits.model, digits.train_set, digits.poisoned[:10])
    assert torch.isin(listed.indices, digits.poisoned).double().mean() >= 0.9  # of 187 without the part, 0.32
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.95


@pytest.mark.filterwarnings("ignore:label 0. 138 of 253 samples are called poison")
@pytest.mark.parametrize("source", [3, 7])
def test_of_many_classes_a_part_of_the_poison_is_not_taken_for_the_whole(source: int) -> None:
    """All that was found was of one class: the rest of the poison is not."""
    digits = PoisonedDigits(1, poisoned=150)
    found = digits.poisoned[digits.true_labels[digits.poisoned] == source][:12]
    listed = pf.suspects(digits.model, digits.train_set, found)
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.9


def test_the_poisons_label_is_as_frequent_with_the_trigger_as_without(digits: SmallOrLarge) -> None:
    attack = pf.simulate_attack(digits.model, digits.train_set, digits.wrong)
    share = attack.shares[TARGET].item()
    assert share == pytest.approx(0.5, abs=0.05)
    keep = KeepTheirLabel.of(attack, torch.full((20,), TARGET), torch.ones(20))
    assert keep.odds == pytest.approx(share / (1 - share))
    assert torch.equal(keep.labels, digits.true_labels[keep.indices])
    assert not torch.isin(keep.indices, digits.wrong).any()
    differing = KeepTheirLabel.of(attack, torch.full((20,), TARGET), torch.arange(20) % 4)
    assert differing.odds == pytest.approx(keep.odds / 4)
    none = KeepTheirLabel.of(None, torch.full((20,), TARGET), torch.ones(20))
    of = {"found": digits.wrong[:5], "changed": torch.ones(20, dtype=torch.bool), "held_out": True, "seed": 0}
    suspects, labels = digits.wrong[:20], torch.ones(20, dtype=torch.long)
    batches = Batches.of(1400, suspects, labels, triggered=keep, **of)
    indices, taught, donors = batches.batch(3)
    count = round(16 * keep.odds)
    assert len(batches) == len(indices) == batches.size + 16 + count
    assert (donors[:-count] == NO_TRIGGER).all() and (donors[-count:] != NO_TRIGGER).all()
    assert (taught[-count:] == TARGET).all() and (taught[: batches.size] == AS_GIVEN).all()
    assert torch.isin(indices[-count:], keep.indices).all() and not torch.isin(indices, batches.held_out).any()
    plain = Batches.of(1400, suspects, labels, triggered=none, **of)
    assert len(plain) == batches.size + 16 and torch.equal(plain.batch(3)[0], indices[:-count])


class Noted(nn.Module):
    """Keeps the last batch that it was given."""

    def __init__(self, model: nn.Module, batches: list[torch.Tensor]) -> None:
        super().__init__()
        self.model, self.note = model, batches.append

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.note(images.detach().clone())
        return self.model(images)


def test_the_batches_hold_the_trigger(digits: SmallOrLarge) -> None:
    attack = pf.simulate_attack(digits.model, digits.train_set, digits.wrong)
    batches: list[torch.Tensor] = []
    pf.finetune(
        Noted(copy.deepcopy(digits.model), batches),
        digits.train_set,
        digits.wrong,
        torch.ones(len(digits.wrong), dtype=torch.long),
        found=digits.wrong[:5],
        attack=attack,
        max_damage=5,
        inplace=True,
    )
    corner = torch.stack([batch[:, 0, -2:, -2:].mean((1, 2)) for batch in batches if len(batch) > 40])
    share = attack.shares[TARGET].item()
    count = round(16 * share / (1 - share))
    assert (corner[:, -count:].median(1).values > 0.7).all()  # the pattern's image of a clean one is nearly white
    assert (corner[:, : -count - 16].median(1).values < 0).all()


@pytest.mark.filterwarnings("ignore:no suspect has another label")
def test_an_attack_that_cannot_be_is_named(digits: SmallOrLarge, healed: pf.HealResult) -> None:
    data, few = digits.train_set, digits.wrong[:20]
    given, new = digits.labels[few], torch.ones(20, dtype=torch.long)
    attack = pf.simulate_attack(digits.model, data, digits.wrong)
    with pytest.raises(DataError, match="attack must be what simulate_attack gives, not a AttackEstimate"):
        pf.finetune(digits.model, data, few, new, found=few[:5], attack=healed.attack)
    fewer = torch.utils.data.Subset(data, range(1300))
    with pytest.raises(DataError, match="simulated with 1400 training samples, and train_set has 1300"):
        pf.finetune(digits.model, fewer, [0], [1], found=[0], attack=attack)
    assert pf.finetune(digits.model, data, few, given, found=few[:5], attack=attack).kept == 0  # nothing is new


class Squeezed(nn.Module):
    """Takes images of any size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(nn.functional.interpolate(images, (8, 8)))


@pytest.mark.filterwarnings("ignore:label 0. 127 more stand apart")
def test_a_training_set_of_another_size_gets_no_trigger(digits: SmallOrLarge) -> None:
    crops = torch.utils.data.TensorDataset(digits.images[..., 1:, 1:], digits.labels)
    with pytest.warns(PotionWarning, match="the samples of train_set have another shape than those of plain_set"):
        healed = pf.heal(
            Squeezed(copy.deepcopy(digits.model)),
            crops,
            digits.poisoned[:10],
            plain_set=digits.train_set,
            max_damage=10,
        )
    assert healed.finetuning.plan["clean ones with the trigger per batch"] == 0


def test_a_share_of_few_samples_does_not_say_that_the_trigger_was_turned() -> None:
    assert AttackSuccess.of(0, 0, 384, lost=1, of=1).lost_low < TURNED
    assert AttackSuccess.of(0, 0, 384, lost=60, of=100).lost_low > TURNED


def test_a_trigger_that_was_turned_round_is_said(healed: pf.HealResult) -> None:
    after = healed.attack.after
    assert after is not None
    turned = replace(healed, attack=replace(healed.attack, after=replace(after, lost=0.6, lost_low=0.5)))
    assert not turned.healed and turned.reason == TRIGGER_TURNED
    assert "60% lose it by the suspects' trigger" in turned.warnings[-1]


def test_what_could_not_be_measured_is_said_where_all_get_one_label(healed: pf.HealResult) -> None:
    unknown = replace(healed, attack=replace(healed.attack, before=None, after=None, why="no part can be hidden"))
    assert unknown.warnings[-1].startswith("100% of the suspects got the label 1, which their trigger may tell now")
    assert "no part can be hidden" in unknown.warnings[-1]
    spread = replace(unknown.labels, labels=torch.arange(len(unknown.labels.labels)) % 5)
    assert replace(unknown, labels=spread).unmeasured_warning is None
