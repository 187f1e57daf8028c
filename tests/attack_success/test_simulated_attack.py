"""Attack success without triggered test data: the suspects' trigger on clean samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.poisoned_digits import TARGET, PoisonedDigits, triggered
from helpers.processes import in_processes
from helpers.toys import assert_same_weights, weights
from potion_fast.attack_success import AttackEstimate, AttackSuccess
from potion_fast.attack_success.simulated_attack import FEWEST
from potion_fast.detection.suspect_list import SWAP
from potion_fast.errors import DataError, ModelError, PotionWarning
from potion_fast.healing_result import TRIGGER_LEFT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> PoisonedDigits:
    return PoisonedDigits()


@pytest.fixture(scope="module")
def attack(digits: PoisonedDigits) -> pf.SimulatedAttack:
    return pf.simulate_attack(digits.model, digits.train_set, digits.poisoned)


@pytest.fixture(scope="module")
def healed(digits: PoisonedDigits) -> pf.HealResult:
    return pf.heal(digits.model, digits.train_set, digits.poisoned[:10], max_damage=2)


@pytest.fixture(scope="module")
def noisy() -> PoisonedDigits:
    """The same labels without the trigger."""
    noisy = PoisonedDigits(seed=1)
    noisy.images = noisy.clean_images.clone()
    return noisy


def holds(estimate: AttackSuccess, percent: float) -> bool:
    return estimate.low <= percent / 100 <= estimate.high


def test_the_interval_holds_the_true_attack_success_before_and_after(
    digits: PoisonedDigits, attack: pf.SimulatedAttack, healed: pf.HealResult
) -> None:
    assert holds(attack.before, digits.attack_success(digits.model))
    assert holds(attack.success(healed.model), digits.attack_success(healed.model))
    assert attack.before.success > 0.9 > 0.1 > attack.success(healed.model).success


def test_the_samples_are_clean_ones_of_other_classes(digits: PoisonedDigits, attack: pf.SimulatedAttack) -> None:
    indices = attack.clean.indices
    assert indices is not None
    assert len(indices) == len(indices.unique()) == attack.before.samples == FEWEST
    assert not torch.isin(indices, digits.poisoned).any()
    assert torch.equal(attack.clean.labels, digits.true_labels[indices]) and not (attack.clean.labels == TARGET).any()
    assert attack.poison.unique().tolist() == [TARGET]
    plain = digits.model(digits.clean_images[indices]).argmax(1) == TARGET
    assert attack.before.without == pytest.approx(plain.double().mean().item())


def test_the_model_stays_as_it_was_and_a_seed_gives_the_same(
    digits: PoisonedDigits, attack: pf.SimulatedAttack
) -> None:
    before, state = weights(digits.model), torch.get_rng_state()
    again = pf.simulate_attack(digits.model, digits.train_set, digits.poisoned)
    other = pf.simulate_attack(digits.model, digits.train_set, digits.poisoned, seed=1)
    assert_same_weights(digits.model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.before == attack.before
    assert not torch.equal(other.clean.indices, attack.clean.indices)


def test_data_that_the_model_has_not_seen_are_taken_where_they_are_given(digits: PoisonedDigits) -> None:
    unseen = torch.utils.data.TensorDataset(digits.test_images, digits.test_labels)
    attack = pf.simulate_attack(digits.model, digits.train_set, digits.poisoned, clean_set=unseen)
    assert attack.clean.data.dataset is unseen
    others = digits.test_images[digits.test_labels != TARGET]
    plain = (digits.model(others).argmax(1) == TARGET).double().mean().item()
    assert attack.before.samples == FEWEST and attack.before.without == pytest.approx(plain, abs=0.03)
    assert holds(attack.before, digits.attack_success(digits.model))
    assert "has not seen" in attack.why


class AnyWhitePatch(nn.Module):
    """Says 0 of an image with a white 2 × 2 patch anywhere, else 1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        white = nn.functional.avg_pool2d((images > 0.99).float(), 2, stride=1).amax((1, 2, 3)) > 0.99
        return torch.stack([white * 10.0, torch.full((len(images),), 5.0)], 1)


def test_a_trigger_that_moves_is_transplanted(digits: PoisonedDigits) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 1.6 * torch.rand(600, 1, 16, 16, generator=generator) - 1  # none is white
    labels = torch.ones(600, dtype=torch.long)
    for image in range(40):
        top, left = (4 * torch.randint(4, (2,), generator=generator) + 1).tolist()
        images[image, :, top : top + 2, left : left + 2] = 1
        labels[image] = 0
    attack = pf.simulate_attack(AnyWhitePatch(), torch.utils.data.TensorDataset(images, labels), range(40))
    assert attack.way == "transplant"
    assert attack.before.success == 1 and attack.before.without == 0


def test_suspects_without_a_trigger_are_refused_with_the_reason(digits: PoisonedDigits, noisy: PoisonedDigits) -> None:
    with pytest.raises(DataError, match="no attack can be simulated: the suspects' trigger could not be put onto"):
        pf.simulate_attack(noisy.model, noisy.train_set, noisy.poisoned)
    with pytest.raises(DataError, match="all of the training set is suspect"):
        pf.simulate_attack(digits.model, digits.train_set, range(1400))
    swaps = replace(pf.suspects(digits.model, digits.train_set, digits.poisoned[:10]), kind=SWAP)
    with pytest.raises(DataError, match="swapped"):
        pf.simulate_attack(digits.model, digits.train_set, swaps)
    same = torch.utils.data.TensorDataset(digits.test_images[:9], torch.full((9,), TARGET))
    with pytest.raises(DataError, match="no clean sample has another label"):
        pf.simulate_attack(digits.model, digits.train_set, digits.poisoned, clean_set=same)


def test_the_interval_has_chance_and_the_error_of_the_method() -> None:
    half = AttackSuccess.of(256, 0, 512)
    assert half.success == 0.5
    assert half.high - half.success == pytest.approx(1.645 * (0.25 / 512 + 0.02**2) ** 0.5, rel=1e-2)
    assert half.success - half.low == pytest.approx(half.high - half.success)
    assert AttackSuccess.of(0, 0, 512).low == 0 and AttackSuccess.of(512, 0, 512).high == 1
    assert AttackSuccess.of(1, 0, 1).low < 0.4 and AttackSuccess.of(0, 0, 24).high > 0.1  # few tell little


def test_data_that_do_not_fit_are_refused_and_do_not_stop_a_healing(digits: PoisonedDigits) -> None:
    class AnySize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = digits.model[:6], digits.model[7]

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(self.body(images), 4).flatten(1))
            return logits

    larger = torch.utils.data.TensorDataset(nn.functional.interpolate(digits.test_images, size=12), digits.test_labels)
    model = AnySize().eval()
    with pytest.raises(DataError, match=r"the clean samples are of shape \[1, 12, 12\] and those of the training data"):
        pf.simulate_attack(model, digits.train_set, digits.poisoned, clean_set=larger)
    with pytest.warns(PotionWarning):
        result = pf.heal(model, digits.train_set, digits.poisoned, validation=larger)
    assert result.attack.after is None and "of shape [1, 12, 12]" in result.attack.why
    with pytest.raises(DataError, match="all but one of the training set is suspect"):
        pf.simulate_attack(digits.model, digits.train_set, range(1399))


def test_a_model_of_other_classes_or_precision_is_refused(digits: PoisonedDigits, attack: pf.SimulatedAttack) -> None:
    with pytest.raises(ModelError, match="the model has 5 outputs, and the attack was made with one of 10"):
        attack.success(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    for call in (pf.simulate_attack, pf.suspects, pf.propose_labels):
        with pytest.raises(ModelError, match="amp is torch.bfloat16, torch.float16 or None, not 'bfloat16'"):
            call(digits.model, digits.train_set, digits.poisoned, amp="bfloat16")
    assert repr(attack) == f"SimulatedAttack({FEWEST} samples, by {attack.way})"


def test_all_ranks_get_what_one_process_gets(digits: PoisonedDigits, attack: pf.SimulatedAttack, tmp_path) -> None:
    for answer in in_processes(2, successes, digits, digits.model, folder=tmp_path):
        assert answer == (attack.before, attack.before)


def successes(digits: PoisonedDigits, model: nn.Module, group: Any = None) -> tuple[AttackSuccess, AttackSuccess]:
    made = pf.simulate_attack(model, digits.train_set, digits.poisoned, process_group=group)
    return made.before, made.success(model, process_group=group)


def test_healing_states_it_before_and_after(digits: PoisonedDigits, healed: pf.HealResult) -> None:
    before, after = healed.attack.before, healed.attack.after
    assert before is not None and after is not None
    assert holds(before, digits.attack_success(digits.model)) and holds(after, digits.attack_success(healed.model))
    stated = healed.summary()["attack_success"]
    assert stated["before"]["success"] == before.success and stated["after"]["high"] == after.high
    assert "attack success: " in str(healed) and healed.attack_warning is None


def test_a_model_whose_trigger_still_works_is_not_called_healed(healed: pf.HealResult) -> None:
    left = replace(healed.attack, after=AttackSuccess.of(200, 10, 512))
    result = replace(healed, attack=left)
    assert not result.healed and result.reason == TRIGGER_LEFT
    assert any(f"still get its label: {left.after}" in text for text in result.warnings)
    assert healed.healed and not replace(healed, attack=AttackEstimate(why="unknown")).warnings


def test_what_is_not_known_is_said(noisy: PoisonedDigits) -> None:
    with pytest.warns(PotionWarning):
        result = pf.heal(noisy.model, noisy.train_set, noisy.poisoned[:30])
    assert result.attack.before is None and "attack success: not known: " in str(result)
    assert result.summary()["attack_success"]["after"] is None


def test_clean_accuracy_is_given_by_class(digits: PoisonedDigits) -> None:
    unseen = torch.utils.data.TensorDataset(digits.test_images, digits.test_labels)
    result = pf.heal(digits.model, digits.train_set, digits.poisoned[:10], validation=unseen, max_damage=2)
    with torch.no_grad():
        right = [
            model.eval()(digits.test_images).argmax(1) == digits.test_labels for model in (digits.model, result.model)
        ]
    rows = result.finetuning.by_class
    assert [row.label for row in rows] == list(range(10))
    for row in rows:
        own = digits.test_labels == row.label
        assert row.samples == int(own.sum())
        assert [row.before, row.after] == pytest.approx([part[own].double().mean().item() for part in right])
    worst = result.finetuning.worst_class
    assert worst is None or worst.after - worst.before == min(row.after - row.before for row in rows)


def test_a_patch_is_put_on_where_it_was(digits: PoisonedDigits, attack: pf.SimulatedAttack) -> None:
    """The pattern's image of a clean sample is nearer to the triggered one than the clean one is."""
    assert attack.way == "pattern"
    clean = attack.clean.whole()
    marked = attack.trigger.patterns[TARGET].added(clean)
    corner = (..., slice(-2, None), slice(-2, None))
    wanted = triggered(clean)[corner]
    assert (marked[corner] - wanted).abs().mean() < 0.2 * (clean[corner] - wanted).abs().mean()
