from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.toys import Blobs, assert_same_weights, weights
from potion_fast.distributed import Ranks
from potion_fast.errors import DataError, ImportanceError, SearchError
from potion_fast.search import STRATEGIES, Score, SearchOptions
from potion_fast.search.evaluation import Evaluation
from potion_fast.search.state import Search
from potion_fast.search.unedited import Unedited
from potion_fast.utils.model import ModelParameters


def public_codes_search(model, forget, retain, loader, rho, s_step=1.1, max_steps=500):
    """PTN as the public code's form has it: all ratios to NumPy, a percentile, a copy and a whole edit per step."""
    share = forget.samples / (forget.samples + retain.samples)
    s = share / 25
    ratios = forget.mean.numpy() / retain.mean.numpy()
    ratios = ratios[~np.isnan(ratios) & ~np.isinf(ratios)]
    initial = share_given_its_label(model, loader)
    for step in range(1, max_steps + 1):  # noqa: B007 - returned
        p = 100 - np.log(1 + 100 * np.float64(s))
        alpha = torch.tensor(np.nanpercentile(ratios, p), dtype=torch.float32)
        candidate = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in candidate.named_parameters():
                f, o = forget[name], retain[name]
                selected = torch.where(f > alpha * o)
                update = (o / f)[selected]
                update[update > 1] = 1
                parameter[selected] = parameter[selected].mul(update)
        accuracy = share_given_its_label(candidate, loader)
        if accuracy <= rho * initial:
            break
        s = s * 1.1 if s_step == 1.1 else s * s_step
    return candidate, step, alpha.item(), p


def share_given_its_label(model, loader):
    """In float32, as the metric of the public code has it: 1/5 is 0.200000003."""
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y in loader])
    return (hits.sum().float() / torch.tensor(len(hits)).float()).item()


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.5, 0.9])
def test_the_search_ends_where_the_public_codes_does_with_the_same_weights(blobs, both, rho):
    result = pf.ptn_search(blobs.model, *both, blobs.forget(), rho=rho, mode="reference")
    with np.errstate(all="ignore"):
        model, steps, alpha, p = public_codes_search(blobs.model, *both, blobs.forget(), rho)
    assert result.reason == "threshold passed"
    assert (len(result.trace), result.alpha, result.trace[-1].percentile) == (steps, alpha, p)
    assert_same_weights(result.model, weights(model))


@pytest.mark.parametrize(
    ("correct", "of", "rho", "reference"),
    [
        (1, 5, 0.2, False),  # 0.200000003
        (3, 10, 0.3, False),  # 0.300000012
        (1, 10, 0.1, False),  # 0.100000001
        (7, 10, 0.7, True),  # 0.699999988
        (1, 4, 0.25, True),
        (0, 5, 0.0, True),
        (1, 5, 0.21, True),
    ],
)
def test_a_tie_passes_in_mode_reference_only_where_float32_has_it_below(blobs, both, correct, of, rho, reference):
    def passes(mode):
        settings, model = SearchOptions(rho=rho, mode=mode).resolved(), ModelParameters(blobs.model)
        unedited = Unedited(model, settings, Evaluation(model, []), Ranks(), False, Score(1.0), 0)
        return Search(unedited).passes(correct / of)

    assert (passes("reference"), passes("default"), passes("paper")) == (reference, True, rho == 0.21)


def test_the_search_heals_a_model_and_says_how(blobs, both):
    original = weights(blobs.model)
    assert blobs.accuracy(blobs.model, triggered=True) < 0.6
    result = pf.ptn_search(blobs.model, *both, blobs.forget())
    assert blobs.accuracy(result.model, triggered=True) > 0.9
    assert blobs.accuracy(result.model, triggered=False) > 0.95
    assert_same_weights(blobs.model, original)  # a copy was healed
    assert result.initial_accuracy == 1.0 and result.trace[-1].accuracy <= 0.2
    assert [step.step for step in result.trace] == list(range(1, len(result.trace) + 1))
    dampened = [step.dampened for step in result.trace]
    assert dampened == sorted(dampened)
    changed = sum(int((a != b).sum()) for a, b in zip(result.model.parameters(), blobs.model.parameters(), strict=True))
    assert changed == dampened[-1]
    assert result.warnings == [] and result.summary()["steps"] == len(result.trace)
    assert result.kept == result.trace[-1] and result.alpha == result.kept.alpha
    assert result.strategy == "sequential" and result.evaluations == 1 + len(result.trace)


def test_in_place_changes_the_callers_model(blobs, both):
    model = copy.deepcopy(blobs.model)
    result = pf.ptn_search(model, *both, blobs.forget(), inplace=True)
    assert result.model is model
    assert_same_weights(model, weights(pf.ptn_search(blobs.model, *both, blobs.forget()).model))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_model_changed_in_place_comes_back_intact_when_the_search_fails(blobs, both, error):
    model = copy.deepcopy(blobs.model)

    class Fails:
        reads = 0

        def __iter__(self):
            self.reads += 1
            if self.reads > 5:
                raise error
            return iter(blobs.forget())

    with pytest.raises(error):
        pf.ptn_search(model, *both, Fails(), rho=0.0, b_start=2.0, inplace=True)
    assert_same_weights(model, weights(blobs.model))


def test_a_warning_made_an_error_leaves_a_model_changed_in_place_intact(blobs, both):
    model = copy.deepcopy(blobs.model)
    with pytest.raises(pf.PotionWarning, match="out of steps"):  # pytest makes every warning an error
        pf.ptn_search(model, *both, blobs.forget(), max_steps=2, inplace=True)
    assert_same_weights(model, weights(blobs.model))


def test_at_the_threshold_the_default_stops_and_the_strict_rule_continues(blobs, both):
    found = blobs.forget()
    loose = pf.ptn_search(blobs.model, *both, found, s_step=1.02)
    reached = loose.trace[-1].accuracy
    at = pf.ptn_search(blobs.model, *both, found, rho=reached, s_step=1.02)
    below = pf.ptn_search(blobs.model, *both, found, rho=reached, s_step=1.02, strict=True)
    assert at.trace[-1].accuracy == reached
    assert below.trace[-1].accuracy < reached and len(below.trace) > len(at.trace)


def test_out_of_steps_gives_the_last_model_and_a_warning(blobs, both):
    with pytest.warns(pf.PotionWarning, match="out of steps"):
        result = pf.ptn_search(blobs.model, *both, blobs.forget(), max_steps=2)
    assert result.reason == "out of steps" and len(result.trace) == 2 and "out of steps" in result.warnings[0]


def test_the_search_stops_when_it_is_saturated(blobs, both):
    forget, retain = both
    same = replace(retain, sums=forget.sums * 2, samples=10, terms=10)
    with pytest.warns(pf.PotionWarning, match="saturated"):
        result = pf.ptn_search(blobs.model, forget, same, blobs.forget(), rho=0.0)
    assert result.reason == "saturated" and result.trace[-1].alpha <= 1
    assert_same_weights(result.model, weights(blobs.model))


def test_no_finite_ratio_gives_a_warning(blobs, both):
    forget, retain = both
    nothing = replace(retain, sums=torch.zeros_like(retain.sums))
    with pytest.warns(pf.PotionWarning) as caught:
        result = pf.ptn_search(blobs.model, forget, nothing, blobs.forget())
    assert result.reason == "saturated" and math.isnan(result.alpha)
    assert any("no weight has a finite ratio" in str(w.message) for w in caught)


def test_a_trigger_that_was_never_learnt_leaves_the_model_alone(blobs, both):
    wrong = [(x, 1 - y) for x, y in blobs.forget()]
    with pytest.warns(pf.PotionWarning, match="not learnt"):
        result = pf.ptn_search(blobs.model, *both, wrong)
    assert (result.reason, result.trace, result.alpha) == ("trigger not learnt", [], None)
    assert_same_weights(result.model, weights(blobs.model))
    with pytest.warns(pf.PotionWarning, match="not learnt"):  # the public code applies its first step: 0 ≤ ρ · 0
        result = pf.ptn_search(blobs.model, *both, wrong, mode="reference")
    assert (result.reason, len(result.trace)) == ("threshold passed", 1)


def test_outputs_that_are_no_longer_finite_give_a_warning():
    class Divides(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.c = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

        def forward(self, x):  # [B] -> [B, 2]
            return torch.stack([x / self.w, self.c.expand_as(x)], 1)

    model, loader = Divides(), [(torch.tensor([-1.0]), torch.tensor([1]))]
    forget = pf.importance(model, loader, lambda outputs, labels: outputs.sum(1), group_size=1)
    retain = replace(forget, sums=torch.tensor([0.0, 1.0]))  # x/0: the divisor is dampened to 0 at the first step
    with pytest.warns(pf.PotionWarning) as caught:
        result = pf.ptn_search(model, forget, retain, loader)
    assert result.warnings == [str(w.message) for w in caught]
    assert any("collapsed" in note for note in result.warnings)


def test_the_accuracy_is_taken_on_the_evaluation_loader_where_there_is_one(blobs, both):
    class Never:
        def __iter__(self):
            raise AssertionError("the forget loader was read")

    result = pf.ptn_search(blobs.model, *both, Never(), evaluation_loader=blobs.forget())
    assert result.reason == "threshold passed"


def test_the_modes_start_where_their_sources_do(blobs, both):
    def first(**options):
        with pytest.warns(pf.PotionWarning):
            return pf.ptn_search(blobs.model, *both, blobs.forget(), rho=0.0, max_steps=1, **options).trace[0].s

    share = 10 / 200
    assert first() == first(mode="reference") == share / 25
    retain_only = 10 / both[1].samples
    assert pf.ptn_search(blobs.model, *both, blobs.forget(), mode="paper").trace[0].s == retain_only * 25
    assert first(mode="paper", b_start=0.04, retain_holds_forget=False) == share / 25


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rho": -0.1}, "rho must"),
        ({"rho": 1.1}, "rho must"),
        ({"rho": float("nan")}, "rho must"),
        ({"s_step": 1.0}, "s_step"),
        ({"s_step": float("inf")}, "s_step"),
        ({"b_start": float("inf")}, "b_start"),
        ({"b_start": 0.0}, "b_start"),
        ({"max_steps": 0}, "max_steps"),
        ({"mode": "best"}, "default, reference, paper"),
    ],
)
def test_options_out_of_range_are_named(blobs, both, options, match):
    with pytest.raises(SearchError, match=match):
        pf.ptn_search(blobs.model, *both, blobs.forget(), **options)


def test_an_empty_forget_loader_and_another_model_are_refused(blobs, both):
    with pytest.raises(DataError, match="no batch"):
        pf.ptn_search(blobs.model, *both, [])
    with pytest.raises(ImportanceError, match="compute them again"):
        pf.ptn_search(Blobs(seed=1).model, *both, blobs.forget())
    with pytest.raises(ImportanceError, match="another model"):
        pf.ptn_search(nn.Linear(2, 2), *both, blobs.forget())


def test_a_search_longer_than_a_block_of_thresholds_continues_from_the_original_weights(blobs, both):
    with pytest.warns(pf.PotionWarning, match="out of steps"):
        result = pf.ptn_search(blobs.model, *both, blobs.forget(), rho=0.0, s_step=1.01, b_start=1e-3, max_steps=150)
    assert len(result.trace) == 150  # more than two blocks
    plan_model = copy.deepcopy(blobs.model)
    pf.EditPlan(plan_model, *both, [result.alpha]).apply(0)
    assert_same_weights(result.model, weights(plan_model))


def test_sequential_knows_only_candidates_and_a_callable():
    class Plan:
        alphas = torch.tensor([3.0, 2.0])
        applied: list[int] = []

        def apply(self, k):
            self.applied.append(k)

        def dampened(self, k):
            return 10 * k

    trials = list(STRATEGIES["sequential"].run(Plan(), lambda: Score(0.5), lambda accuracy: False))
    assert Plan.applied == [0, 1]
    assert [(t.k, t.alpha, t.accuracy, t.dampened) for t in trials] == [(0, 3.0, 0.5, 0), (1, 2.0, 0.5, 10)]
