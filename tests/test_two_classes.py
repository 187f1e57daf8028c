"""Healing of a model of two classes, whose suspects all get the same other label."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.poisoned_digits import TARGET, PoisonedDigits, percent, triggered
from potion_fast.finetuning.batches import AS_GIVEN, AS_READ, Batches, KeepTheirLabel
from potion_fast.healing_result import TRIGGER_TURNED

pytestmark = pytest.mark.usefixtures("one_thread")


class SmallOrLarge(PoisonedDigits):
    """Digits below 5 are of class 0, the poison's, the others of class 1."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
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
    return pf.heal(digits.model, digits.train_set, digits.poisoned[:10], max_damage=2)


def test_the_trigger_is_not_turned_round(digits: SmallOrLarge, healed: pf.HealResult) -> None:
    assert digits.with_trigger(digits.model)[1] < 5
    assert min(digits.with_trigger(healed.model)) > 80
    assert digits.accuracy(healed.model) > digits.accuracy(digits.model) - 2
    assert healed.healed
    assert healed.attack.after is not None and healed.attack.after.lost < 0.1


def test_a_kind_of_the_poisons_own_class_is_not_called(digits: SmallOrLarge) -> None:
    """Images of 2 lie between the others below 5 and the poison."""
    listed = pf.suspects(digits.model, digits.train_set, digits.poisoned[:10])
    assert torch.isin(listed.indices, digits.poisoned).double().mean() >= 0.95
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.95


def test_members_of_all_parts_keep_the_whole_group() -> None:
    """Found samples in all parts of the poison: no part of it is taken for the whole."""
    digits = PoisonedDigits()
    for found in (digits.poisoned[:10], digits.poisoned[::2]):
        listed = pf.suspects(digits.model, digits.train_set, found)
        assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.95


def test_the_poisons_label_is_as_frequent_with_the_trigger_as_without(digits: SmallOrLarge) -> None:
    attack = pf.simulate_attack(digits.model, digits.train_set, digits.wrong)
    share = attack.shares[TARGET].item()
    assert share == pytest.approx(0.5, abs=0.05)
    keep = KeepTheirLabel.of(attack, torch.full((20,), TARGET))
    assert keep.odds == pytest.approx(share / (1 - share))
    assert torch.equal(keep.labels, digits.true_labels[keep.indices])
    assert not torch.isin(keep.indices, digits.wrong).any()
    none = KeepTheirLabel.of(None, torch.full((20,), TARGET))
    of = {"found": digits.wrong[:5], "changed": torch.ones(20, dtype=torch.bool), "held_out": True, "seed": 0}
    suspects, labels = digits.wrong[:20], torch.ones(20, dtype=torch.long)
    batches = Batches.of(1400, suspects, labels, triggered=keep, **of)
    indices, taught, donors = batches.batch(3)
    count = round(16 * keep.odds)
    assert len(batches) == len(indices) == batches.size + 16 + count
    assert (donors[:-count] == AS_READ).all() and (donors[-count:] != AS_READ).all()
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


def test_a_trigger_that_was_turned_round_is_said(healed: pf.HealResult) -> None:
    after = healed.attack.after
    assert after is not None
    turned = replace(healed, attack=replace(healed.attack, after=replace(after, lost=0.6)))
    assert not turned.healed and turned.reason == TRIGGER_TURNED
    assert "60% lose it by the suspects' trigger" in turned.warnings[-1]


def test_what_could_not_be_measured_is_said_where_all_get_one_label(healed: pf.HealResult) -> None:
    unknown = replace(healed, attack=replace(healed.attack, before=None, after=None, why="no part can be hidden"))
    assert unknown.warnings[-1].startswith("100% of the suspects got the label 1, which their trigger may tell now")
    assert "no part can be hidden" in unknown.warnings[-1]
    spread = replace(unknown.labels, labels=torch.arange(len(unknown.labels.labels)) % 5)
    assert replace(unknown, labels=spread).unmeasured_warning is None
