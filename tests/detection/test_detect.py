"""The rest of the poison: it is found, the stated rate holds, and the members of S_f that do not belong are named."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from helpers.poisoned_digits import PoisonedDigits
from helpers.poisoned_features import PoisonedFeatures, poisoned_features
from potion_fast.detection import Suspects, suspects, suspects_from
from potion_fast.errors import DataError, PotionWarning

SEEDS = 12


def sought(made: PoisonedFeatures, found: torch.Tensor, **keywords) -> Suspects:
    """Suspects, with their warnings kept where they belong: in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)
        return suspects_from(made.features, found, **keywords)


def rates(found: int, seeds: int = SEEDS, rate: float = 0.05, **keywords) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of false ones and recall, by seed."""
    made = [poisoned_features(seed, **keywords) for seed in range(seeds)]
    results = [(each, sought(each, each.draw(found, seed), rate=rate)) for seed, each in enumerate(made)]
    false = torch.tensor([each.false_share(result) for each, result in results])
    return false, torch.tensor([each.recall(result) for each, result in results])


def holds(false: torch.Tensor, rate: float = 0.05) -> bool:
    """Whether the mean share of false ones is at most the rate and a standard error."""
    return false.mean() <= rate + false.std() / len(false) ** 0.5


@pytest.mark.parametrize("found", [1, 5, 20])
@pytest.mark.parametrize("freedom", [6, 40])
def test_the_rate_holds_and_the_poison_is_found(found: int, freedom: int) -> None:
    false, recall = rates(found, freedom=freedom)
    assert holds(false)
    assert recall.mean() > (0.95 if found > 1 else 0.85)


@pytest.mark.parametrize("apart", [4.0, 6.0])
def test_the_rate_holds_where_the_poison_is_not_far(apart: float) -> None:
    assert holds(rates(10, apart=apart)[0])


def test_a_higher_rate_gives_no_fewer_suspects() -> None:
    made = poisoned_features(1, apart=2.0)
    found = made.draw(20, 0)
    few, many = (set(sought(made, found, rate=rate).indices.tolist()) for rate in (0.001, 0.2))
    assert few < many


@pytest.mark.parametrize("per_class", [1000, 5000])
def test_a_few_among_a_thousand_are_found(per_class: int) -> None:
    false, recall = rates(5, seeds=6, classes=3, per_class=per_class, poison=5 + 5, freedom=40)
    assert holds(false)
    assert recall.mean() > 0.8


@pytest.mark.parametrize("found", [1, 5, 20])
def test_where_no_more_is_there_hardly_any_are_called(found: int) -> None:
    called = []
    for seed in range(SEEDS):
        made = poisoned_features(seed, poison=found)
        called.append(len(made.beyond(sought(made, made.draw(found, seed)))))
    assert sum(called) <= SEEDS // 2


@pytest.mark.parametrize(("right", "wrong"), [(18, 2), (10, 10), (5, 5), (9, 51)])
def test_wrong_members_do_not_fit_and_cost_nothing(right: int, wrong: int) -> None:
    false, recall, wrongly, rightly = [], [], [], []
    for seed in range(6):
        made = poisoned_features(seed)
        clean = (~made.poison & (made.features.labels == 0)).nonzero().flatten()
        found = torch.cat([made.draw(right, seed), clean[:wrong]])
        result = sought(made, found)
        is_poison = made.poison[result.found]
        wrongly.append(result.fits[~is_poison].double().mean().item())
        rightly.append(result.fits[is_poison].double().mean().item())
        text = f"{int((~result.fits).sum())} of {right + wrong} found samples are not like the poison"
        assert result.fits.all() or text in result.warnings[0]
        assert not torch.isin(result.found[~result.fits], result.indices).any()
        false.append(made.false_share(result))
        recall.append(made.recall(result))
    assert holds(torch.tensor(false))
    assert sum(recall) / len(recall) > 0.95
    assert sum(wrongly) / len(wrongly) < 0.05 and sum(rightly) / len(rightly) > 0.95


def test_natural_samples_taken_for_poison_find_hardly_any_and_that_is_said() -> None:
    called, said = 0, 0
    for seed in range(6):
        made = poisoned_features(seed)
        natural = (made.features.labels == 3).nonzero().flatten()[:20]
        with pytest.warns(PotionWarning, match="do not stand apart|are not like the poison"):
            result = suspects_from(made.features, natural)
        called += len(made.beyond(result))
        said += "do not stand apart" in result.by_label[0].note
    assert called <= 6 and said > 2


def test_each_label_of_the_found_is_looked_into() -> None:
    made = poisoned_features(0, targets=(0, 3))
    found = torch.cat([made.draw(8, 0, kind) for kind in (0, 1)])
    result = sought(made, found)
    assert made.recall(result) > 0.95 and made.false_share(result) <= 0.1
    assert [row.label for row in result.by_label] == [0, 3]
    assert [row.suspects + row.fitting for row in result.by_label] == result.labels.bincount()[[0, 3]].tolist()


def test_only_labels_of_the_found_are_looked_into() -> None:
    made = poisoned_features(0, targets=(0, 3))
    assert (sought(made, made.draw(8, 0, 0)).labels == 0).all()


def test_two_triggers_with_one_label_are_both_found() -> None:
    recall = []
    for seed in range(6):
        made = poisoned_features(seed, triggers=2)
        result = sought(made, torch.cat([made.draw(10, seed, kind) for kind in (0, 1)]))
        assert made.false_share(result) <= 0.1
        recall.append(made.recall(result))
    assert sum(recall) / len(recall) > 0.9


def test_a_label_that_is_mostly_poison() -> None:
    made = poisoned_features(2, per_class=100, poison=300)
    result = sought(made, made.draw(40, 0))
    assert made.recall(result) > 0.9 and made.false_share(result) <= 0.05


def test_twenty_samples_of_a_label() -> None:
    false, recall = rates(4, per_class=20, poison=12)
    assert holds(false)
    assert recall.mean() > 0.5


@pytest.mark.parametrize("found", [3, 10])
def test_every_label_poisoned(found: int) -> None:
    false, recall = [], []
    for seed in range(4):
        made = poisoned_features(seed, classes=3, targets=(0, 1, 2), per_class=300)
        result = sought(made, torch.cat([made.draw(found, 0, kind) for kind in range(3)]))
        false.append(made.false_share(result))
        recall.append(made.recall(result))
    assert holds(torch.tensor(false))
    assert sum(recall) / len(recall) > 0.9


def test_a_thousand_labels_cost_no_more_than_their_samples() -> None:
    made = poisoned_features(0, classes=1000, per_class=12, poison=12)
    began = time.process_time()
    result = sought(made, made.draw(5, 0))
    assert time.process_time() - began < 5
    assert len(result.by_label) == 1


def test_all_of_a_label_found() -> None:
    made = poisoned_features(0)
    found = (made.features.labels == 2).nonzero().flatten()
    with pytest.warns(PotionWarning, match="label 2: no other samples have this label"):
        result = suspects_from(made.features, found)
    assert torch.equal(result.indices.sort().values, found) and result.fits.all()


def test_features_that_are_all_the_same() -> None:
    made = poisoned_features(0)
    same = replace(made.features, features=torch.ones_like(made.features.features))
    with pytest.warns(PotionWarning, match="all the same"):
        assert len(suspects_from(same, made.draw(3, 0))) == 3


def test_a_constant_feature_changes_nothing() -> None:
    made = poisoned_features(0)
    wider = torch.cat([made.features.features, torch.full((len(made.features), 3), 7.0)], 1)
    found = made.draw(5, 0)
    assert torch.equal(
        sought(made, found).indices, suspects_from(replace(made.features, features=wider), found).indices
    )


def test_what_cannot_be_is_refused() -> None:
    made = poisoned_features(0)
    count = len(made.features)
    for found, text in (
        ([], "no samples"),
        ([count], f"index {count}"),
        ([-1], "index -1"),
        ([0.5], "whole numbers"),
        (3, r"such as \[3, 14\]"),
        (torch.zeros(count, dtype=torch.bool), "mask"),
    ):
        with pytest.raises(DataError, match=text):
            suspects_from(made.features, found)
    for rate in (0, 1, -0.1, float("nan"), "0.05", True):
        with pytest.raises(DataError, match="rate must be"):
            suspects_from(made.features, [0], rate=rate)
    for bad in (float("nan"), float("inf")):
        broken = made.features.features.clone()
        broken[17, 3] = bad
        with pytest.raises(DataError, match="sample 17"):
            suspects_from(replace(made.features, features=broken), [0])


def test_members_given_twice_count_once() -> None:
    made = poisoned_features(0)
    found = made.draw(6, 0)
    with pytest.warns(PotionWarning, match="2 of the found samples were given twice"):
        twice = suspects_from(made.features, torch.cat([found, found[:2]]))
    once = sought(made, found)
    assert torch.equal(twice.indices, once.indices) and torch.equal(twice.found, found.sort().values)
    assert len(twice.warnings) == 1 + len(once.warnings)


def test_the_order_of_the_found_and_the_random_state_do_not_matter() -> None:
    made = poisoned_features(0)
    found = made.draw(6, 0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sought(made, found)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = sought(made, found.flip(0).tolist())
    for name in ("indices", "scores", "p_values", "labels", "found", "fits", "below", "below_scores"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_the_list_is_in_order_and_the_line_is_between_its_parts() -> None:
    made = poisoned_features(0)
    result = sought(made, made.draw(6, 0))
    assert (result.scores.diff() <= 0).all() and (result.p_values.diff() >= 0).all()
    assert (result.below_scores.diff() <= 0).all()
    beyond = result.scores[~torch.isin(result.indices, result.found)]
    assert result.below_scores[0] <= beyond[-1]
    assert len(result.below) == 64 and not torch.isin(result.below, result.indices).any()
    assert torch.equal(result.labels, made.features.labels[result.indices])


def test_the_whole_way_on_a_trained_network() -> None:
    digits = PoisonedDigits()
    state = {name: value.clone() for name, value in digits.model.state_dict().items()}
    found = digits.poisoned[:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)
        result = suspects(digits.model, digits.train_set, found)
    assert torch.isin(digits.wrong, result.indices).double().mean() > 0.95
    assert (~torch.isin(result.indices, digits.poisoned)).double().mean() <= 0.05
    assert all(torch.equal(value, state[name]) for name, value in digits.model.state_dict().items())


def test_a_plain_set_is_read_in_place_of_an_augmented_one() -> None:
    digits = PoisonedDigits()
    noise = TensorDataset(torch.zeros_like(digits.images), digits.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)
        plain = suspects(digits.model, noise, digits.poisoned[:8], plain_set=digits.train_set)
        direct = suspects(digits.model, digits.train_set, digits.poisoned[:8])
    assert torch.equal(plain.indices, direct.indices)
    with pytest.raises(DataError, match="plain_set has 3 samples and train_set 1400"):
        suspects(digits.model, noise, [0], plain_set=TensorDataset(digits.images[:3], digits.labels[:3]))


def test_members_that_the_model_gives_other_labels_are_doubted_only_beside_wrong_ones() -> None:
    made = poisoned_features(0)
    clean = (~made.poison & (made.features.labels == 0)).nonzero().flatten()[:2]
    found = torch.cat([made.draw(18, 0), clean])
    for changed in (clean[:1], clean):
        best = made.features.best.clone()
        best[changed] = 5
        result = sought(replace(made, features=replace(made.features, best=best)), found)
        assert result.found[~result.fits].tolist() == ([] if len(changed) == 2 else clean.tolist())


def test_most_of_a_label_is_not_called_because_most_of_the_found_are_wrong() -> None:
    false, recall = [], []
    for seed in range(6):
        made = poisoned_features(seed, per_class=400, poison=200)
        clean = (~made.poison & (made.features.labels == 0)).nonzero().flatten()
        result = sought(made, torch.cat([made.draw(6, seed), clean[:34]]))
        false.append(made.false_share(result))
        recall.append(made.recall(result))
    assert holds(torch.tensor(false))
    assert sum(recall) / len(recall) > 0.9
