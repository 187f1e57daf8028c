"""Poison of which no sample was found: it is named, and natural subclasses are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.poisoned_digits import TARGET, PoisonedDigits
from potion_fast.detection import Suspects, suspects
from potion_fast.detection.groups import Group, groups_of
from potion_fast.detection.label_evidence import LabelEvidence, compared
from potion_fast.detection.label_space import LabelSpace
from potion_fast.detection.unknown_poison import beyond_chance


@pytest.fixture(scope="module")
def poisoned() -> PoisonedDigits:
    return PoisonedDigits(0)


@pytest.fixture(scope="module")
def listed(poisoned: PoisonedDigits) -> Suspects:
    return suspects(poisoned.model, DataLoader(poisoned.train_set, batch_size=200))


def test_the_poisoned_label_is_named_and_its_poison_listed(poisoned: PoisonedDigits, listed: Suspects) -> None:
    assert listed.by_label[0].label == TARGET and listed.by_label[0].p_value < 0.005
    assert (listed.labels == TARGET).all() and listed.kind == "trigger"
    right = torch.isin(listed.indices, poisoned.poisoned)
    assert right.double().mean() > 0.95 and int(right.sum()) > 0.95 * len(poisoned.poisoned)
    assert len(listed.found) == 0 and listed.rate == 0.05
    assert listed.why == ("the label 0 has a group of samples that stands apart and varies as several classes do")


def test_every_label_has_a_row_least_p_value_first(listed: Suspects) -> None:
    assert sorted(row.label for row in listed.by_label) == list(range(10))
    p_values = [row.p_value for row in listed.by_label]
    assert p_values == sorted(p_values)
    assert all(row.suspects == 0 for row in listed.by_label[1:])
    assert f"{listed.by_label[0].p_value:.1g}" in repr(listed)


@pytest.mark.parametrize("seed", range(4))
def test_clean_digits_have_subclasses_and_none_is_named(seed: int) -> None:
    """Ones with and without a foot stand ten standard deviations apart."""
    clean = PoisonedDigits(seed, poisoned=0)
    listed = suspects(clean.model, clean.train_set)
    assert len(listed) == 0
    assert max(row.separation for row in listed.by_label) > 5
    assert listed.why == ("none of 10 labels has a group of samples that stands apart and varies as several classes do")


def test_twenty_of_fourteen_hundred_are_found() -> None:
    poisoned = PoisonedDigits(1, poisoned=20)
    listed = suspects(poisoned.model, poisoned.train_set)
    assert set(poisoned.poisoned.tolist()) <= set(listed.indices.tolist())
    assert len(listed) <= 22


def test_the_list_does_not_depend_on_the_random_state(poisoned: PoisonedDigits, listed: Suspects) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = suspects(poisoned.model, poisoned.train_set)
    assert torch.equal(again.indices, listed.indices) and torch.equal(torch.get_rng_state(), state)


def test_with_two_classes_nothing_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 6, generator=generator), torch.arange(200) % 2
    x[:20] += 30 * (y[:20] == 0)[:, None]
    listed = suspects(nn.Linear(6, 2), TensorDataset(x, y))
    assert len(listed) == 0 and listed.why.startswith("with 2 labels, poison that has not been found cannot be told")


def test_holm_names_no_more_than_chance_allows() -> None:
    assert beyond_chance({3: 0.0126, 5: 0.5, 7: 0.016, 9: 0.9}) == []
    assert beyond_chance({3: 0.0125, 5: 0.5, 7: 0.016, 9: 0.9}) == [3, 7]
    assert beyond_chance({1: 1.0}) == []


def test_the_p_value_of_a_label_by_hand() -> None:
    from scipy.stats import t

    group = groups_of(two_groups())[0]
    known = LabelEvidence(torch.arange(200), [group, group], None, [0.5, float("nan")])
    strength = 0.2 * 0.8 * group.separation**2
    deviation = (0.11**2 + 0.15 / 40 + (0.25 / strength) ** 2) ** 0.5
    assert known.p_value == pytest.approx(2 * t.sf(0.5 / deviation, 20))
    assert known.poison is group
    assert LabelEvidence(torch.arange(200), [], None).p_value == 1


def test_many_groups_tell_how_natural_ones_deviate() -> None:
    """A thousand classes that a network tells badly apart: chance spreads their groups, and no label is named by it."""
    generator = np.random.default_rng(0)
    spreads = 0.2 + 0.4 * generator.standard_normal(1000)
    group = LabelEvidence(torch.arange(40), [Group(np.arange(40) < 10, 8.0)], None)
    alone = {label: replace(group, spreads=[float(share)]) for label, share in enumerate(spreads)}
    assert beyond_chance({label: part.p_value for label, part in alone.items()})
    joint = compared(alone)
    assert not beyond_chance({label: part.p_value for label, part in joint.items()})
    assert joint[0].deviation == pytest.approx(0.4, abs=0.04) and joint[0].centre == pytest.approx(0.2, abs=0.04)
    few = {label: alone[label] for label in range(49)}
    assert compared(few) is few


def two_groups() -> LabelSpace:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((200, 4))
    points[:40, 2] += 12
    return LabelSpace(points, points[:0], np.empty(0, dtype=np.int64), np.eye(4))


def test_a_group_that_stands_apart_is_found_once() -> None:
    found = groups_of(two_groups())
    assert len(found) == 1
    assert found[0].members.tolist() == [True] * 40 + [False] * 160
    assert found[0].separation == pytest.approx(12, abs=1)
    assert found[0].strength == pytest.approx(0.2 * 0.8 * found[0].separation ** 2)


def test_the_smaller_of_two_groups_is_the_one_that_stands_apart() -> None:
    space = two_groups()
    mostly = LabelSpace(-space.points[:70], space.others, space.other_labels, space.covariance)  # 40 of 70
    assert groups_of(mostly)[0].members.tolist() == [False] * 40 + [True] * 30


def test_a_few_odd_samples_are_no_group() -> None:
    """Ten of 2000, four standard deviations off: a strength of 0.08."""
    generator = np.random.default_rng(0)
    points = generator.standard_normal((2000, 4))
    points[:10, 2] += 4
    assert groups_of(LabelSpace(points, points[:0], np.empty(0, dtype=np.int64), np.eye(4))) == []
