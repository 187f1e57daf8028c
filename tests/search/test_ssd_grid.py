from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.toys import assert_same_weights, weights
from potion_fast.errors import DataError, ImportanceError, SearchError
from potion_fast.ops import reference
from potion_fast.search import ssd
from potion_fast.utils.model import trainable


@pytest.fixture(scope="module")
def both(blobs):
    return tuple(pf.importance(blobs.model, loader, "ssd", group_size=1) for loader in (blobs.forget(), blobs.retain()))


@pytest.fixture(scope="module")
def validation(blobs):
    return [(blobs.inputs[20:].clone(), blobs.clean[20:])]


def dense(model, forget, retain, alpha, dampening):
    """A copy of the model, edited whole by the reference operation."""
    edited = copy.deepcopy(model)
    values = torch.cat([p.detach().reshape(-1) for p in trainable(model).values()])
    reference.dampen(values, forget.mean, retain.mean, alpha, dampening)
    edited.load_state_dict(
        {name: values[part].view(forget.shapes[name]) for name, part in forget.parts()}, strict=False
    )
    return edited


def accuracy(model, loader):
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) == y for x, y in loader]).double().mean().item()


def test_every_setting_is_the_dense_edit_and_the_best_score_wins(blobs, both, validation):
    original = weights(blobs.model)
    grid = pf.ssd_grid(blobs.model, *both, blobs.forget(), validation)
    assert [(s.alpha, s.dampening) for s in grid.table] == [(a, c * a) for a in ssd.ALPHAS for c in ssd.DAMPENINGS]
    assert len(grid.table) == 50 and grid.evaluations == 102
    before = accuracy(blobs.model, blobs.forget()), accuracy(blobs.model, validation)
    assert before == (grid.forget_accuracy, grid.validation_accuracy)
    scores = []
    for setting in grid.table:
        edited = dense(blobs.model, *both, setting.alpha, setting.dampening)
        after = accuracy(edited, blobs.forget()), accuracy(edited, validation)
        assert (setting.forget_accuracy, setting.validation_accuracy) == after
        assert setting.score == pytest.approx((before[0] - after[0]) / 2 + (after[1] - before[1]) / 2)
        f, o = (i.mean for i in both)
        selected = f > torch.tensor(setting.alpha) * o
        assert setting.dampened == int((selected & (torch.tensor(setting.dampening) * o / f < 1)).sum())
        scores.append((setting.score, -setting.dampened))
    assert (grid.best.score, -grid.best.dampened) == max(scores)
    assert grid.best in grid.table and grid.best.score > 0 and grid.warnings == []
    assert_same_weights(grid.model, weights(dense(blobs.model, *both, grid.best.alpha, grid.best.dampening)))
    assert_same_weights(blobs.model, original)
    summary = grid.summary()
    assert (summary["settings"], summary["best"]["alpha"], summary["objective"]) == (50, grid.best.alpha, "ssd")


def test_the_grid_finds_a_model_that_is_healed(blobs, both, validation):
    grid = pf.ssd_grid(blobs.model, *both, blobs.forget(), validation)
    assert blobs.accuracy(blobs.model, triggered=True) < 0.6
    assert blobs.accuracy(grid.model, triggered=True) > 0.9
    assert blobs.accuracy(grid.model, triggered=False) > 0.95


def test_values_are_made_once_for_every_lambda(blobs, both, validation, monkeypatch):
    made = []
    original = pf.EditPlan.revalue

    def counted(self, dampening, exponent=1.0):
        made.append(dampening)
        original(self, dampening, exponent)

    monkeypatch.setattr(pf.EditPlan, "revalue", counted)
    options = {"alphas": (1.0, 10.0, 100.0), "dampenings": (0.1, 1.0, 10.0)}
    grid = pf.ssd_grid(blobs.model, *both, blobs.forget(), validation, **options)
    assert made[:-1] == sorted({setting.dampening for setting in grid.table}) == [0.1, 1.0, 10.0, 100.0, 1000.0]


def test_of_equal_scores_the_one_with_fewer_edits_wins(blobs, both, validation, monkeypatch):
    monkeypatch.setattr(ssd, "Evaluation", lambda *evaluated: lambda: ssd_score)
    ssd_score = pf.search.Score(0.5)
    with pytest.warns(pf.PotionWarning, match="no setting scores above 0"):
        grid = pf.ssd_grid(blobs.model, *both, blobs.forget(), validation)
    assert grid.best.dampened == min(setting.dampened for setting in grid.table)
    assert grid.warnings and grid.best.score == 0


def test_in_place_changes_the_callers_model_and_a_failure_leaves_it_intact(blobs, both, validation):
    model = copy.deepcopy(blobs.model)
    assert pf.ssd_grid(model, *both, blobs.forget(), validation, inplace=True).model is model
    assert_same_weights(model, weights(pf.ssd_grid(blobs.model, *both, blobs.forget(), validation).model))

    class Fails:
        reads = 0

        def __iter__(self):
            self.reads += 1
            if self.reads > 5:
                raise KeyboardInterrupt
            return iter(validation)

    model = copy.deepcopy(blobs.model)
    with pytest.raises(KeyboardInterrupt):
        pf.ssd_grid(model, *both, blobs.forget(), Fails(), inplace=True)
    assert_same_weights(model, weights(blobs.model))


def test_outputs_that_are_not_finite_give_a_warning(blobs, both, validation, monkeypatch):
    scores = iter([pf.search.Score(1.0)] * 2)
    monkeypatch.setattr(ssd.Evaluation, "__call__", lambda self: next(scores, pf.search.Score(0.0, finite=False)))
    with pytest.warns(pf.PotionWarning) as caught:
        grid = pf.ssd_grid(blobs.model, *both, blobs.forget(), validation, alphas=[1.0], dampenings=[1.0])
    assert grid.warnings == [str(w.message) for w in caught]
    assert any("collapsed" in note for note in grid.warnings)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alphas": ()}, "alphas is empty"),
        ({"dampenings": ()}, "dampenings is empty"),
        ({"alphas": (1.0, 0.0)}, "alphas must be above 0"),
        ({"alphas": (float("nan"),)}, "alphas must be above 0"),
        ({"dampenings": (-1.0,)}, "dampenings must be above 0"),
        ({"dampenings": (float("inf"),)}, "dampenings must be above 0"),
    ],
)
def test_values_out_of_range_are_named(blobs, both, validation, options, match):
    with pytest.raises(SearchError, match=match):
        pf.ssd_grid(blobs.model, *both, blobs.forget(), validation, **options)


def test_an_empty_loader_and_another_model_are_refused(blobs, both, validation):
    with pytest.raises(DataError, match="no batch"):
        pf.ssd_grid(blobs.model, *both, blobs.forget(), [])
    with pytest.raises(ImportanceError, match="another model"):
        pf.ssd_grid(nn.Linear(2, 2), *both, blobs.forget(), validation)
