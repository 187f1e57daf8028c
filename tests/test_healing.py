"""The whole of healing: suspects, labels, fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import potion_fast as pf
from helpers.poisoned_digits import PoisonedDigits
from helpers.processes import in_processes
from helpers.toys import assert_same_weights, weights
from potion_fast.detection.suspect_list import SWAP
from potion_fast.errors import DataError
from potion_fast.healing_result import NOT_LEARNT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> PoisonedDigits:
    return PoisonedDigits()


@pytest.fixture(scope="module")
def healed(digits: PoisonedDigits) -> pf.HealResult:
    return pf.heal(digits.model, digits.train_set, digits.poisoned[:10], max_damage=2)


def test_the_trigger_goes_and_the_accuracy_stays(digits: PoisonedDigits, healed: pf.HealResult) -> None:
    assert digits.attack_success(digits.model) > 90
    assert digits.attack_success(healed.model) < 5
    assert digits.accuracy(healed.model) > digits.accuracy(digits.model) - 1
    assert healed.healed


def test_the_rest_of_the_poison_is_listed(digits: PoisonedDigits, healed: pf.HealResult) -> None:
    listed = healed.suspects.indices
    assert torch.isin(digits.wrong, listed).double().mean() >= 0.95
    assert torch.isin(listed, digits.poisoned).double().mean() >= 0.9


def test_the_given_model_and_the_random_generators_stay_as_they_are(digits: PoisonedDigits) -> None:
    before, state = weights(digits.model), torch.get_rng_state()
    pf.heal(digits.model, digits.train_set, digits.poisoned[:10], max_damage=2)
    assert_same_weights(digits.model, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_parts_in_a_row_give_the_same(digits: PoisonedDigits, healed: pf.HealResult) -> None:
    listed = pf.suspects(digits.model, digits.train_set, digits.poisoned[:10])
    labels = pf.propose_labels(digits.model, digits.train_set, listed)
    tuned = pf.finetune(
        digits.model,
        digits.train_set,
        labels.indices,
        labels.labels,
        found=listed.found[listed.fits],
        attack=pf.simulate_attack(digits.model, digits.train_set, labels.indices[~labels.kept]),
        max_damage=2,
    )
    assert torch.equal(listed.indices, healed.suspects.indices)
    assert torch.equal(labels.labels, healed.labels.labels)
    assert_same_weights(tuned.model, weights(healed.model))


def test_in_place_heals_the_given_model(digits: PoisonedDigits, healed: pf.HealResult) -> None:
    assert healed.model is not digits.model
    result = pf.heal(
        again := PoisonedDigits().model, digits.train_set, digits.poisoned[:10], max_damage=2, inplace=True
    )
    assert result.model is again
    assert_same_weights(again, weights(healed.model))


def test_an_edited_list_is_taken_as_it_is(digits: PoisonedDigits, healed: pf.HealResult, tmp_path) -> None:
    healed.suspects.save(tmp_path / "suspects.csv")
    lines = (tmp_path / "suspects.csv").read_text().splitlines()
    (tmp_path / "suspects.csv").write_text("\n".join([*lines[:-3]]) + "\n")
    edited = pf.Suspects.load(tmp_path / "suspects.csv")
    result = pf.heal(digits.model, digits.train_set, digits.poisoned[:10], suspects=edited, max_damage=2)
    assert torch.equal(result.suspects.indices, healed.suspects.indices[:-3])
    by_index = pf.heal(digits.model, digits.train_set, digits.poisoned[:10], suspects=digits.poisoned, max_damage=2)
    assert torch.equal(by_index.labels.indices.sort().values, digits.poisoned)
    assert digits.attack_success(by_index.model) < 5


def test_an_interrupted_healing_goes_on_to_the_same_bits(
    digits: PoisonedDigits, healed: pf.HealResult, tmp_path, monkeypatch
) -> None:
    from potion_fast.finetuning.steps import Steps

    step, steps = Steps.step, []

    def stops(self, *arguments):
        steps.append(1)
        if len(steps) == 30:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Steps, "step", stops)
    file = tmp_path / "healing"
    with pytest.raises(KeyboardInterrupt):
        pf.heal(digits.model, digits.train_set, digits.poisoned[:10], checkpoint=file, max_damage=2)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("potion_fast.healing.features_of", None)  # they are not needed again
    result = pf.heal(digits.model, digits.train_set, digits.poisoned[:10], checkpoint=file, max_damage=2, resume=True)
    assert_same_weights(result.model, weights(healed.model))
    assert result.summary() | {"seconds": 0} == healed.summary() | {"seconds": 0}
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_healing_is_refused(digits: PoisonedDigits, tmp_path, monkeypatch) -> None:
    def stops(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("potion_fast.healing.finetune", stops)
    with pytest.raises(KeyboardInterrupt):
        pf.heal(digits.model, digits.train_set, digits.poisoned[:10], checkpoint=tmp_path / "healing")
    with pytest.raises(DataError, match="another healing"):
        pf.heal(digits.model, digits.train_set, digits.poisoned[:9], checkpoint=tmp_path / "healing", resume=True)


def test_results_are_shown_on_one_screen(healed: pf.HealResult) -> None:
    for shown in (str(healed), repr(healed.suspects)):
        assert len(shown.splitlines()) < 24
        assert len(shown) < 3000
    assert "healed: " in str(healed)


def test_a_model_that_had_not_learnt_the_poison_is_not_called_healed(healed: pf.HealResult) -> None:
    given, *rest = healed.trace
    unlearnt = replace(healed.finetuning, trace=[replace(given, poison_accuracy=0.2), *rest])
    result = replace(healed, finetuning=unlearnt)
    assert healed.healed and not result.healed
    assert result.reason == NOT_LEARNT and result.verdict.startswith("not healed, the given model did not give")
    assert replace(result, suspects=replace(healed.suspects, kind=SWAP)).healed  # labels are restored all the same


def test_of_other_samples_there_is_no_plain_set(digits: PoisonedDigits) -> None:
    with pytest.raises(DataError, match="plain_set has 3 samples"):
        pf.heal(digits.model, digits.train_set, [0], plain_set=torch.utils.data.TensorDataset(torch.zeros(3, 1, 8, 8)))


def test_no_suspects_are_an_error(digits: PoisonedDigits) -> None:
    with pytest.raises(DataError, match="no samples"):
        pf.heal(digits.model, digits.train_set, digits.poisoned[:10], suspects=[])


def on_a_rank(rank_seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    digits = PoisonedDigits()
    result = pf.heal(digits.model, digits.train_set, digits.poisoned[:10], max_damage=2)
    return list(weights(result.model).values()), result.suspects.indices


def test_all_ranks_end_with_the_same_bits(tmp_path, healed: pf.HealResult) -> None:
    first, second = in_processes(2, on_a_rank, 0, folder=tmp_path)
    for one, other in zip(first[0], second[0], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[1].sort().values, healed.suspects.indices.sort().values)


def test_a_list_without_any_found_sample_is_taken(digits: PoisonedDigits) -> None:
    result = pf.heal(
        digits.model, digits.train_set, digits.poisoned[:5], suspects=iter(digits.poisoned[5:].tolist()), max_damage=2
    )
    assert torch.equal(result.labels.indices.sort().values, digits.poisoned[5:])
    assert not result.suspects.fits.any()
    assert result.suspects.kind == "trigger"


def test_suspects_that_were_sought_without_a_found_sample_heal(digits: PoisonedDigits) -> None:
    listed = pf.suspects(digits.model, digits.train_set)
    result = pf.heal(digits.model, digits.train_set, suspects=listed, max_damage=2)
    assert result.healed and digits.attack_success(result.model) < 5
    assert torch.equal(result.suspects.indices, listed.indices) and len(result.suspects.found) == 0
    by_index = pf.heal(digits.model, digits.train_set, suspects=digits.poisoned, max_damage=2)
    assert by_index.healed and by_index.suspects.kind == "trigger"


def test_neither_found_samples_nor_suspects(digits: PoisonedDigits) -> None:
    with pytest.raises(DataError, match=r"found is missing: .* potion_fast.suspects\(model, train_set\)"):
        pf.heal(digits.model, digits.train_set)


@pytest.mark.parametrize("seed", [1.5, -1, "0", True, None, 2**63])
def test_a_seed_that_is_none_is_named(digits: PoisonedDigits, seed: object) -> None:
    given = digits.model, digits.train_set
    calls = (
        lambda: pf.heal(*given, digits.poisoned[:10], seed=seed),
        lambda: pf.propose_labels(*given, digits.poisoned, seed=seed),
        lambda: pf.finetune(*given, [0], [1], found=[0], seed=seed),
        lambda: pf.simulate_attack(*given, digits.poisoned, seed=seed),
    )
    for call in calls:
        with pytest.raises(DataError, match="seed must be a whole number from 0 to 2\\*\\*63 - 1, not "):
            call()
