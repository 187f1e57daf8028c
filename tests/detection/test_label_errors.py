"""Label errors by confident learning."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import TensorDataset

import potion_fast as pf
from helpers.swapped_digits import SwappedDigits
from helpers.toys import assert_same_weights, weights
from potion_fast.detection.suspect_list import SWAP
from potion_fast.errors import DataError, ModelError

pytest.importorskip("cleanlab", reason="cleanlab is missing: pip install potion-fast[label-errors]")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> SwappedDigits:
    return SwappedDigits(interclass=False)


@pytest.fixture(scope="module")
def listed(digits: SwappedDigits) -> pf.Suspects:
    return pf.label_errors(digits.model, digits.train_set)


def test_wrong_labels_are_listed_with_the_right_ones(digits: SwappedDigits, listed: pf.Suspects) -> None:
    found = torch.isin(listed.indices, digits.wrong)
    assert torch.isin(digits.wrong, listed.indices).double().mean() >= 0.5  # the model knows some by heart
    assert found.double().mean() >= 0.9
    assert listed.proposed is not None
    right = listed.proposed == digits.true_labels[listed.indices]
    assert right[found].double().mean() >= 0.9
    assert (listed.proposed != listed.labels).all() and torch.equal(listed.labels, digits.labels[listed.indices])
    assert (listed.scores[:-1] >= listed.scores[1:]).all() and listed.scores[0] > 0  # most suspect first
    assert listed.kind == SWAP and listed.rate != listed.rate and "no stated error rate" in listed.why
    assert sum(row.suspects for row in listed.by_label) == len(listed)


def test_the_list_is_healed_from(digits: SwappedDigits, listed: pf.Suspects) -> None:
    before = weights(digits.model)
    result = pf.heal(digits.model, digits.train_set, suspects=listed, max_damage=2)
    assert_same_weights(digits.model, before)
    assert listed.proposed is not None and torch.equal(result.labels.labels, listed.proposed)
    with torch.no_grad():
        right = [
            (model(digits.images[digits.wrong]).argmax(1) == digits.true_labels[digits.wrong]).double().mean().item()
            for model in (digits.model, result.model)
        ]
    assert right[1] > right[0]


def test_labels_that_do_not_count_from_0_without_a_gap_are_read(digits: SwappedDigits) -> None:
    kept = digits.labels != 4  # the model has ten outputs, the data nine labels
    listed = pf.label_errors(digits.model, TensorDataset(digits.images[kept], digits.labels[kept]))
    assert listed.proposed is not None and not (listed.proposed == 4).any() and (listed.proposed == 9).any()


def test_too_few_samples_of_a_label_are_refused(digits: SwappedDigits) -> None:
    few = torch.cat([(digits.labels == 0).nonzero().flatten(), (digits.labels == 1).nonzero().flatten()[:4]])
    with pytest.raises(DataError, match="the label 1 has 4 samples"):
        pf.label_errors(digits.model, TensorDataset(digits.images[few], digits.labels[few]))


def test_cleanlab_is_named_where_it_is_missing(digits: SwappedDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ModelError, match=r"pip install potion-fast\[label-errors\]"):
        pf.label_errors(digits.model, digits.train_set)


def test_one_label_alone_is_refused(digits: SwappedDigits) -> None:
    same = (digits.labels == 1).nonzero().flatten()
    with pytest.raises(DataError, match="all samples have the label 1"):
        pf.label_errors(digits.model, TensorDataset(digits.images[same], digits.labels[same]))
