"""Members of S_f that are clean are named from a few samples beside them, and right ones are not."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import potion_fast as pf
from helpers.poisoned_digits import TARGET, PoisonedDigits
from potion_fast.detection.features import TENSORS, Features, features_of
from potion_fast.detection.wrong_members import wrong_members
from potion_fast.utils.training_data import TrainingData

BESIDE = 256  # samples of the training data, and as many of S_f's labels


@lru_cache
def digits(seed: int) -> tuple[PoisonedDigits, Features]:
    made = PoisonedDigits(seed=seed)
    return made, features_of(made.model, TrainingData.of(made.train_set))


def chosen(features: Features, indices: Tensor) -> Features:
    return replace(features, **{name: getattr(features, name)[indices] for name in TENSORS})


def members(seed: int, poison: int, clean_of_label: int = 0, clean_of_others: int = 0) -> Tensor:
    made, _ = digits(seed)
    generator = torch.Generator().manual_seed(seed)
    clean = torch.ones(1400, dtype=torch.bool)
    clean[made.poisoned] = False
    of_label = made.labels == TARGET
    pools = made.wrong, (clean & of_label).nonzero()[:, 0], (clean & ~of_label).nonzero()[:, 0]
    counts = poison, clean_of_label, clean_of_others
    parts = [
        pool[torch.randperm(len(pool), generator=generator)[:count]] for pool, count in zip(pools, counts, strict=True)
    ]
    return torch.cat(parts)


def places(seed: int, found: Tensor) -> list[int]:
    made, features = digits(seed)
    rest = torch.ones(1400, dtype=torch.bool)
    rest[found] = False
    rest = rest.nonzero()[:, 0]
    of_labels = rest[torch.isin(made.labels[rest], made.labels[found])][:BESIDE]
    beside = torch.cat([rest[:: len(rest) // BESIDE][:BESIDE], of_labels]).unique()
    return wrong_members(chosen(features, found), chosen(features, beside)).tolist()


@pytest.mark.parametrize("seed", range(2))
def test_clean_members_are_named_and_right_ones_are_not(seed: int):
    assert places(seed, members(seed, 3)) == places(seed, members(seed, 12)) == []
    assert places(seed, members(seed, 5, 1)) == [5]
    assert places(seed, members(seed, 9, 3)) == [9, 10, 11]
    assert set(places(seed, members(seed, 9, 0, 3))) <= {9, 10, 11}


def loaders(found: Tensor, shuffled: bool) -> tuple[DataLoader, DataLoader]:
    made, _ = digits(0)
    rest = [index for index in range(1400) if index not in found.tolist()]
    of_found = Subset(made.train_set, found.tolist())
    return DataLoader(Subset(made.train_set, rest), 128, shuffle=True), DataLoader(of_found, 8, shuffle=shuffled)


@pytest.mark.parametrize("shuffled", [False, True])
def test_unlearn_names_clean_members(shuffled: bool):
    torch.manual_seed(0)
    with pytest.warns(pf.PotionWarning, match="3 of 12 found samples are not like .* of S_f 9, 10, 11;") as caught:
        result = pf.unlearn(digits(0)[0].model, *loaders(members(0, 9, 3), shuffled))
    assert result.wrong_members == result.summary()["wrong_members"] == [9, 10, 11]
    assert str(caught[0].message) in result.warnings and caught[0].filename == __file__


def test_unlearn_says_nothing_of_right_members():
    result = pf.unlearn(digits(0)[0].model, *loaders(members(0, 12), True))
    assert result.wrong_members == [] and result.warnings == []


def test_swapped_loaders_are_named():
    retain, forget = loaders(members(0, 12), False)
    with pytest.warns(pf.PotionWarning) as caught:
        result = pf.unlearn(digits(0)[0].model, forget, retain, max_steps=1)
    swapped = "forget_loader gives 1,388 samples and retain_loader 12: .* the two loaders may be swapped"
    assert any(re.search(swapped, str(w.message)) for w in caught) and result.wrong_members == []


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_check_draws_no_random_number_and_changes_no_result(shuffled: bool, monkeypatch: pytest.MonkeyPatch):
    model, found = digits(0)[0].model, members(0, 12)

    def healed() -> list[Tensor]:
        torch.manual_seed(1)
        with pytest.warns(pf.PotionWarning, match="out of steps"):
            result = pf.unlearn(model, *loaders(found, shuffled), max_steps=2)
        assert result.retain is not None
        return [*result.model.state_dict().values(), result.retain.sums, torch.rand(3)]

    checked = healed()
    monkeypatch.setattr("potion_fast.unlearning.features_of_found", lambda *arguments: None)
    assert all(map(torch.equal, checked, healed()))
