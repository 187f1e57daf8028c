"""PTN, ASSD and the grid of SSD as unlearners: each is the search or the edit that it is named after."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import potion_fast as pf
from helpers.toys import Blobs, assert_same_weights, batches, weights
from helpers.unlearned import (
    accuracy,
    run,
    validation,
)
from potion_fast.bench.unlearners import Loaders, make_unlearner
from potion_fast.errors import PotionError, PotionWarning
from potion_fast.percentiles import percentile_of


@pytest.mark.parametrize("objective", ["xlf", "lf", "ssd"])
@pytest.mark.parametrize("mode", ["default", "reference"])
def test_ptn_is_the_whole_method(blobs: Blobs, objective: str, mode: str):
    done = run(f"ptn-{objective}", blobs, mode=mode, rho=0.3)
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), objective, mode=mode, rho=0.3)
    assert_same_weights(done.model, weights(want.model))
    assert done.report.summary()["objective"] == objective
    assert [step.alpha for step in done.trace] == [step.alpha for step in want.trace]
    assert done.kept == done.report.kept


def test_the_settings_of_ptn_reach_the_search(blobs: Blobs):
    more = {"rho": 0.9, "b_start": 0.5, "s_step": 1.5, "max_steps": 3, "strict": True, "strategy": "bisect"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = run("ptn-xlf", blobs, **more, group_size=2, amp="bfloat16")
        want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), "xlf", **more, group_size=2, amp=torch.bfloat16)
    assert done.warnings == want.warnings and len(caught) == 2 * len(want.warnings)
    summary, other = done.report.summary(), want.summary()
    same = [key for key in other if key not in ("seconds", "kept_step", "clean_accuracy")]  # it keeps no samples
    assert {key: summary[key] for key in same} == {key: other[key] for key in same}
    assert [step.percentile for step in done.trace] == [step.percentile for step in want.trace]
    assert_same_weights(done.model, weights(want.model))


def test_the_limit_on_damage_is_measured_on_validation_data(blobs: Blobs):
    done = run("ptn-xlf", blobs, max_damage=3)
    assert done.report.max_damage == 3 and done.kept.clean_accuracy == done.report.clean.after
    with pytest.raises(PotionError, match="validation data"):
        make_unlearner("ptn-xlf", max_damage=3)(blobs.model, Loaders(blobs.forget(), blobs.retain()))


@pytest.mark.parametrize("name", ["ptn-xlf", "assd"])
def test_a_loader_that_augments_gives_the_same_weights_for_the_same_seed(blobs: Blobs, name: str):
    def importances(seed: int) -> Tensor:
        unlearner = make_unlearner(name, seed=seed, group_size=10)
        loader = Augmented(blobs.retain())
        found = []
        edit = type(unlearner).edit
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(unlearner),
                "edit",
                lambda self, model, forget, retain, *rest: (
                    found.append(retain.mean) or edit(self, model, forget, retain, *rest)
                ),
            )
            unlearner(blobs.model, Loaders(blobs.forget(), loader, validation=validation(blobs)))
        return found[0]

    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    first = importances(0)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(importances(0), first)
    assert not torch.equal(importances(1), first)


class Augmented:
    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return ((x + 0.1 * torch.randn_like(x), y) for x, y in self.data)


def test_ptn_heals(blobs: Blobs):
    assert blobs.accuracy(blobs.model, triggered=True) < 0.6
    done = run("ptn-xlf", blobs, strategy="minimal")
    assert blobs.accuracy(done.model, triggered=True) > 0.9
    assert blobs.accuracy(done.model, triggered=False) > 0.95


def test_in_mode_paper_the_forget_sets_importances_are_added_to_the_retain_sets(blobs: Blobs):
    done = run("ptn-xlf", blobs, mode="paper", b_start=0.01)
    everything = batches(
        torch.cat([blobs.inputs[10:], blobs.inputs[:10]]), torch.cat([blobs.labels[10:], blobs.labels[:10]]), 190
    )
    want = pf.unlearn(blobs.model, everything, blobs.forget(), mode="paper", b_start=0.01)
    assert done.report.retain.samples == 200
    torch.testing.assert_close(done.report.retain.mean, want.retain.mean, rtol=1e-5, atol=0)
    assert [step.percentile for step in done.trace] == [step.percentile for step in want.trace]


def test_a_search_without_steps_may_take_importances_over_all_training_data(blobs: Blobs):
    done = run("ptn-xlf", blobs, strategy="minimal", retain_holds_forget=True, group_size=1)
    assert done.report.retain.samples == 200 and done.report.reason == "threshold passed"


def test_importances_can_be_shared(blobs: Blobs):
    forget = pf.importance(blobs.model, blobs.forget(), "ssd", group_size=10)
    retain = pf.importance(blobs.model, blobs.retain(), "ssd", group_size=10)
    for name in ("ptn-ssd", "assd", "ssd-goel"):
        loaders = Loaders(blobs.forget(), blobs.retain(), validation=validation(blobs))
        shared = make_unlearner(name).edit(blobs.model, forget, retain, loaders)
        assert_same_weights(shared.model, weights(run(name, blobs).model))
        assert shared.gradient_steps == 0


def test_the_search_looks_at_the_evaluation_loader(blobs: Blobs):
    wrong = batches(blobs.inputs[:10], 1 - blobs.labels[:10], 10)
    with pytest.warns(PotionWarning, match="not learnt"):
        done = make_unlearner("ptn-xlf")(blobs.model, Loaders(blobs.forget(), blobs.retain(), evaluation=wrong))
    assert done.kept is None and done.warnings
    assert_same_weights(done.model, weights(blobs.model))


@pytest.mark.parametrize("dampening", [1.0, 0.25])
def test_assd_is_one_edit_at_the_share_of_the_forget_set(blobs: Blobs, dampening: float):
    done = run("assd", blobs, group_size=1, dampening=dampening)
    forget = pf.importance(blobs.model, blobs.forget(), "ssd", group_size=1)
    retain = pf.importance(blobs.model, blobs.retain(), "ssd", group_size=1)
    p = 100 - math.log(1 + 100 * 10 / 200)
    ratios = (forget.mean / retain.mean).numpy()
    alpha = np.nanpercentile(ratios[np.isfinite(ratios)], p)
    expected = copy.deepcopy(blobs.model)
    changed = 0
    for name, parameter in expected.named_parameters():
        f, o = forget[name], retain[name]
        chosen = (f > alpha * o) & (dampening * o < f)
        parameter.data[chosen] = (parameter * (dampening * o / f))[chosen]
        changed += int(chosen.sum())
    for ours, theirs in zip(done.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    (step,) = done.trace
    assert (step.percentile, step.dampened) == (percentile_of(0.05), changed) and 0 < changed < len(ratios)
    assert step.alpha == pytest.approx(alpha, rel=1e-6)
    with torch.no_grad():
        accuracy_left = (done.model(blobs.inputs[:10]).argmax(1) == blobs.labels[:10]).double().mean()
    assert step.accuracy == accuracy_left


def test_assd_says_when_it_changed_nothing(blobs: Blobs):
    with pytest.warns(PotionWarning, match="no weight was dampened"):
        done = make_unlearner("assd")(blobs.model, Loaders(blobs.forget(), blobs.forget()))  # all ratios are 1
    assert_same_weights(done.model, weights(blobs.model))
    assert len(done.warnings) == 1


def test_ssd_goel_chooses_of_50_settings_by_the_mean_change(blobs: Blobs):
    done = run("ssd-goel", blobs)
    assert len(done.trace) == 50
    before = [accuracy(blobs.model, data) for data in (blobs.forget(), validation(blobs))]
    after = [accuracy(done.model, data) for data in (blobs.forget(), validation(blobs))]
    scores = [
        (before[0] - each.forget_accuracy) / 2 + (each.validation_accuracy - before[1]) / 2 for each in done.trace
    ]
    assert done.kept.score == pytest.approx(max(scores)) and max(scores) > min(scores)
    assert [done.kept.forget_accuracy, done.kept.validation_accuracy] == pytest.approx(after)
    with pytest.raises(PotionError, match="validation loader"):
        make_unlearner("ssd-goel")(blobs.model, Loaders(None, None))  # before anything is read
