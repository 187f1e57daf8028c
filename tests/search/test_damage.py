"""A search that would ruin a model: the limit on its damage, and the warning where there is none."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from helpers.processes import in_processes
from helpers.toys import Blobs, assert_same_weights, batches, weights
from potion_fast.distributed import ShareSampler
from potion_fast.errors import DataError, PotionWarning, SearchError
from potion_fast.importances.kept_samples import KeptSamples
from potion_fast.search import DAMAGE_LIMIT, STRATEGIES, ptn
from potion_fast.utils.batches import Chunk, chunks

FOUND = 30


class Class:
    """S_f is ordinary samples of class 1, and the importances of the rest are tiny: all of the class is forgotten."""

    def __init__(self, blobs: Blobs) -> None:
        of_class = torch.nonzero(blobs.labels == 1).flatten()[:FOUND]
        rest = torch.ones(len(blobs.labels), dtype=torch.bool)
        rest[of_class] = False
        self.model, self.scale = blobs.model, 1.0
        self.forget = batches(blobs.inputs[of_class], blobs.labels[of_class], 32)
        self.retain = batches(blobs.inputs[rest], blobs.labels[rest], 32)

    def objective(self, outputs, labels):
        return outputs.norm(dim=1) * self.scale

    def unlearn(self, retain=None, forget=None, **keywords):
        def after(name, importance):
            self.scale = 1e-3 if name == "forget" else 1.0

        return pf.unlearn(
            self.model, retain or self.retain, forget or self.forget, self.objective, on_importance=after, **keywords
        )


@pytest.fixture(scope="module")
def ruin(blobs: Blobs) -> Class:
    return Class(blobs)


def test_a_fall_of_clean_accuracy_is_warned_of_on_samples_of_the_pass(ruin):
    with pytest.warns(
        PotionWarning, match="clean accuracy on 170 samples of the training data fell from 100.0 to"
    ) as w:
        result = ruin.unlearn()
    assert result.clean.damage > 10 and result.clean.before == 1
    assert result.warnings == [str(w[0].message)] and "heal" in result.warnings[0]
    assert result.summary()["clean_accuracy"]["after"] == result.clean.after
    assert all(step.clean_accuracy is None for step in result.trace)


def test_looking_at_samples_of_the_pass_changes_no_weight_and_no_random_number(blobs, ruin):
    forget, retain = (pf.importance(blobs.model, data, group_size=10) for data in (blobs.forget(), blobs.retain()))
    want = pf.ptn_search(blobs.model, forget, retain, blobs.forget())
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget())
    assert result.clean.data == "190 samples of the training data" and result.clean.damage < 10
    assert_same_weights(result.model, weights(want.model))
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert np.array_equal(np.random.get_state()[1], state[2])


@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_the_modes_of_the_paper_and_its_code_look_at_nothing_more(blobs, mode):
    assert pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), mode=mode).clean is None


@pytest.mark.parametrize("labels", [None, -torch.ones(190, dtype=torch.int64)], ids=["none", "of no class"])
def test_without_labels_that_can_be_right_there_is_no_clean_accuracy(blobs, labels):
    retain = [blobs.inputs[10:]] if labels is None else [(blobs.inputs[10:], labels)]
    assert pf.unlearn(blobs.model, retain, blobs.forget()).clean is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
def test_the_last_candidate_within_the_limit_is_kept(ruin, strategy):
    result = ruin.unlearn(strategy=strategy, clean_loader=ruin.retain, max_damage=5)
    assert "damage limit reached before the accuracy on S_f fell to" in result.warnings[0]
    assert result.reason == DAMAGE_LIMIT and result.max_damage == result.summary()["max_damage"] == 5
    assert result.kept in result.trace and 0 <= result.clean.damage <= 5
    assert result.kept.clean_accuracy == result.clean.after == share_right(result.model, ruin.retain)
    measured = {step.dampened: step.clean_accuracy for step in result.trace if step.clean_accuracy is not None}
    next_one = min(count for count in measured if count > result.kept.dampened)
    assert result.clean.before - measured[next_one] > 0.05
    if strategy == "minimal":
        assert next_one == result.kept.dampened + 1


def share_right(model, data):
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) == y for x, y in data]).double().mean().item()


@pytest.fixture(scope="module")
def both(ruin):
    """Importances that lead to ruin."""
    forget = pf.importance(ruin.model, ruin.forget, group_size=30)
    retain = pf.importance(ruin.model, ruin.retain, lambda outputs, labels: outputs.norm(dim=1) * 1e-3, group_size=30)
    return forget, replace(retain, objective=forget.objective)


@pytest.mark.parametrize("strategy", ["sequential", "batched", "bisect"])
@pytest.mark.parametrize("block", [1, 7])
@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
def test_the_step_that_is_kept_may_lie_in_the_block_before(ruin, both, strategy, block, monkeypatch):
    limit = {"clean_loader": ruin.retain, "max_damage": 5}
    want = pf.ptn_search(ruin.model, *both, ruin.forget, **limit)
    monkeypatch.setattr(ptn, "BLOCK", block)
    result = pf.ptn_search(ruin.model, *both, ruin.forget, strategy=strategy, **limit)
    assert (result.kept.step, result.reason) == (want.kept.step, DAMAGE_LIMIT)
    assert_same_weights(result.model, weights(want.model))


def test_a_model_that_no_edit_leaves_well_enough_is_given_back_as_it_was(ruin, both):
    model = copy.deepcopy(ruin.model)

    class Falls:
        """At every reading fewer of the labels are right."""

        right = 30

        def __iter__(self):
            (x, y) = ruin.forget[0]
            labels = torch.where(torch.arange(len(y)) < self.right, y, 1 - y)
            self.right -= 3
            return iter([(x, labels)])

    with pytest.warns(PotionWarning) as warned:
        result = pf.ptn_search(model, *both, ruin.forget, inplace=True, clean_loader=Falls(), max_damage=1)
    assert "the first edit costs more than 1 points" in str(warned[1].message)
    assert result.kept is None and result.reason == DAMAGE_LIMIT and result.clean.damage == 0
    assert_same_weights(model, weights(ruin.model))


def test_a_limit_that_is_not_reached_changes_nothing(blobs):
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget())
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), clean_loader=blobs.retain(20), max_damage=5)
    assert_same_weights(result.model, weights(want.model))
    assert result.reason == want.reason == "threshold passed"
    assert (result.clean.data, result.clean.after) == ("the clean data", result.kept.clean_accuracy)


def test_clean_data_alone_are_measured_on(blobs):
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), clean_loader=blobs.retain(20), mode="reference")
    assert result.clean.before == 1 and result.clean.after == result.kept.clean_accuracy


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_damage": 1}, SearchError, "give clean_loader"),
        ({"max_damage": -1, "clean_loader": []}, SearchError, "at least 0"),
        ({"max_damage": float("nan"), "clean_loader": []}, SearchError, "at least 0"),
        ({"max_damage": "1", "clean_loader": []}, SearchError, "must be a number"),
        ({"clean_loader": iter([])}, DataError, "more than once"),
        ({"clean_loader": []}, DataError, "no batch"),
    ],
)
def test_a_limit_that_cannot_be_held_is_refused_before_the_passes(blobs, options, error, match):
    with pytest.raises(error, match=match):
        pf.unlearn(blobs.model, Unread(), blobs.forget(), **options)


class Unread:
    def __iter__(self):
        raise AssertionError("this loader must not be read")


def on_a_rank(ruin):
    data = [
        TensorDataset(*(torch.cat(column) for column in zip(*each, strict=True))) for each in (ruin.retain, ruin.forget)
    ]
    shared, found = (
        DataLoader(data[0], batch_size=32, sampler=ShareSampler(data[0])),
        DataLoader(data[1], batch_size=32),
    )
    ends = []
    for options in ({}, {"clean_loader": ruin.retain, "max_damage": 5}):
        with pytest.warns(PotionWarning):
            result = ruin.unlearn(shared, found, **options)
        ends.append(
            (result.reason, result.clean, [replace(s, seconds=0.0) for s in result.trace], weights(result.model))
        )
    with pytest.raises(DataError, match="a clean_loader that reads everything"):
        pf.unlearn(ruin.model, shared, found, clean_loader=shared)
    return ends


def test_all_ranks_decide_alike(ruin, tmp_path):
    ruin.scale = 1.0
    for mine, other in zip(*in_processes(2, on_a_rank, ruin, folder=tmp_path), strict=True):
        assert repr(mine[:3]) == repr(other[:3])
        assert all(torch.equal(mine[3][name], other[3][name]) for name in mine[3])
    assert mine[0] == DAMAGE_LIMIT


@pytest.mark.parametrize("batch", [1, 7, 300, 2000])
def test_kept_samples_are_spread_over_the_data(batch):
    inputs, kept, start = torch.arange(2000.0)[:, None], KeptSamples(), 0
    for chunk in chunks(batches(inputs, torch.arange(2000), batch), 1):
        kept.add(chunk, start)
        start += len(chunk.inputs)
    numbers = torch.cat([labels for _, labels in kept.batches()])
    assert torch.equal(numbers, torch.arange(0, 2000, 8)) and len(kept) == 250
    assert torch.equal(torch.cat([x for x, _ in kept.batches()])[:, 0], numbers.float())
    assert all(len(labels) <= 64 or batch > 300 for _, labels in kept.batches())


def test_kept_samples_take_little_memory():
    kept = KeptSamples()
    for start in range(0, 64, 4):
        kept.add(Chunk(torch.zeros(4, 2**20), torch.zeros(4), 4, True), start)
    assert len(kept) <= 8 and kept.batches()[0][0].untyped_storage().nbytes() <= 2**25
