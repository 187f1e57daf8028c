"""Swapped labels: what disagrees is found within the stated rate, with the right label."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.swapped_digits import SwappedDigits
from potion_fast.detection import Suspects, suspects_from
from potion_fast.detection.disagreement import likely_labels
from potion_fast.detection.features import Features, features_of
from potion_fast.utils.training_data import TrainingData


def drawn(members: Tensor, number: int, seed: int = 0) -> Tensor:
    return members[torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))[:number]]


class Classes:
    """Points of ten classes in 20 dimensions, some with a wrong label.

    Args:
        overlap: Standard deviation within a class; the classes' means are standard normal.
        pair: Whether the classes 3 and 5 are swapped; else labels are drawn at random.
    """

    def __init__(self, overlap: float, *, pair: bool, wrong: int = 120, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.true = torch.arange(4000) % 10
        means = torch.randn(10, 20, generator=generator)
        points = means[self.true] + overlap * torch.randn(4000, 20, generator=generator)
        if pair:
            self.wrong = torch.cat([drawn((self.true == label).nonzero()[:, 0], wrong // 2, seed) for label in (3, 5)])
            self.labels = self.true.clone()
            self.labels[self.wrong] = 8 - self.true[self.wrong]
        else:
            self.wrong = drawn(torch.arange(4000), wrong, seed)
            self.labels = self.true.clone()
            self.labels[self.wrong] = (self.true[self.wrong] + torch.randint(1, 10, (wrong,), generator=generator)) % 10
        unread = torch.zeros(4000)
        self.features = Features(points, self.labels, unread, self.labels, self.labels, 10, "head")

    def suspects(self, found: Tensor, rate: float = 0.05) -> Suspects:
        return suspects_from(self.features, found, rate=rate)

    def false_share(self, listed: Suspects) -> float:
        """Of suspects beyond S_f, those whose label is right."""
        beyond = listed.indices[~torch.isin(listed.indices, listed.found)]
        return float((self.labels == self.true)[beyond].double().mean()) if len(beyond) else 0.0

    def recall(self, listed: Suspects) -> float:
        hidden = self.wrong[~torch.isin(self.wrong, listed.found)]
        return float(torch.isin(hidden, listed.indices).double().mean())


@pytest.mark.parametrize("pair", [True, False], ids=["interclass", "random"])
def test_swapped_digits_are_found_and_get_their_label_back(pair: bool) -> None:
    digits = SwappedDigits(interclass=pair)
    features = features_of(digits.model, TrainingData.of(digits.train_set))
    found = drawn(digits.poisoned, 20)
    listed = suspects_from(features, found)
    assert listed.kind == "swap"
    right = digits.labels == digits.true_labels
    hidden = digits.wrong[~torch.isin(digits.wrong, found)]
    assert torch.isin(hidden, listed.indices).double().mean() >= 0.4
    assert right[listed.indices].sum() <= 2
    labels = likely_labels(features, listed.indices)
    assert (labels != digits.labels[listed.indices]).all()
    wrong = ~right[listed.indices]
    assert (labels == digits.true_labels[listed.indices])[wrong].double().mean() >= 0.9


@pytest.mark.parametrize("pair", [True, False], ids=["interclass", "random"])
def test_the_stated_rate_holds_where_classes_overlap(pair: bool) -> None:
    shares, recalls = [], []
    for seed in range(4):
        data = Classes(0.9, pair=pair, seed=seed)
        listed = data.suspects(drawn(data.wrong, 20, seed))
        assert listed.kind == "swap"
        shares.append(data.false_share(listed))
        recalls.append(data.recall(listed))
    assert sum(shares) / 4 <= 0.05 + torch.tensor(shares).std() / 2
    assert sum(recalls) / 4 >= 0.5


def test_a_higher_rate_gives_more_suspects_in_the_same_order() -> None:
    data = Classes(0.9, pair=False)
    found = drawn(data.wrong, 20)
    few, many = data.suspects(found, 0.05), data.suspects(found, 0.4)
    assert 20 < len(few) < len(many)
    beyond_few, beyond_many = (part.indices[~torch.isin(part.indices, found)] for part in (few, many))
    assert torch.equal(beyond_few, beyond_many[: len(beyond_few)])
    assert (many.scores.diff() <= 0).all()
    assert (many.p_values.diff() >= 0).all()
    assert len(few.below)
    assert few.below_scores[0] <= few.scores[~torch.isin(few.indices, found)].min()


def test_clean_members_of_the_found_samples_do_not_fit() -> None:
    data = Classes(0.6, pair=False)
    clean = (data.labels == data.true).nonzero()[:, 0]
    right, wrong = drawn(data.wrong, 12), drawn(clean, 4)
    with pytest.warns(UserWarning, match="of 16 found samples have the label that a probe"):
        listed = data.suspects(torch.cat([right, wrong]))
    assert listed.fits[torch.isin(listed.found, right)].all()
    assert not listed.fits[torch.isin(listed.found, wrong)].any()
    assert not torch.isin(wrong, listed.indices).any()


def test_labels_of_a_swap_follow_the_pair_where_the_probe_alone_would_not() -> None:
    data = Classes(2.0, pair=True)
    labels = likely_labels(data.features, data.wrong)
    assert (labels == data.true[data.wrong]).double().mean() > 0.95


def test_the_table_tells_what_labels_were_mistaken_for() -> None:
    data = Classes(0.9, pair=True)
    rows = {row.label: row for row in data.suspects(drawn(data.wrong, 20)).by_label}
    assert "are likely of class 5" in rows[3].note
    assert "are likely of class 3" in rows[5].note
    assert rows[3].found + rows[5].found == 20
