from __future__ import annotations

import copy
import math
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import potion_fast as pf
from helpers.toys import assert_same_weights, weights
from potion_fast.errors import SearchError
from potion_fast.search import STRATEGIES, Score, Strategy, register_strategy, strategies
from potion_fast.search.evaluation import Evaluation
from potion_fast.utils.predict import predict

NOT_SEQUENTIAL = [name for name in STRATEGIES if name != "sequential"]
WITH_GRID = [name for name, strategy in STRATEGIES.items() if strategy.uses_grid]
STEPWISE = [name for name, strategy in STRATEGIES.items() if strategy.tries_every_step]
JUMPING = [name for name, strategy in STRATEGIES.items() if strategy.jumps]


# --- the orders, on candidates that are numbers alone


class Fake:
    """Candidates with given accuracies; `more` makes `grown` at a time."""

    def __init__(self, accuracies, alphas=None, grown=None):
        self.accuracies = accuracies
        self.all = torch.arange(len(accuracies) + 1.0, 1, -1) if alphas is None else torch.tensor(alphas)
        self.alphas = self.all if grown is None else self.all[:0]
        self.grown, self.at, self.applied = grown, None, []

    def apply(self, k):
        assert 0 <= k < len(self.alphas)
        self.at = k
        self.applied.append(k)

    def dampened(self, k):
        return k + 1

    def more(self):
        if len(self.alphas) == len(self.all):
            return False
        self.alphas = self.all[: len(self.alphas) + self.grown]
        return True

    def evaluate(self):
        return Score(self.accuracies[self.at])

    def evaluate_first(self, alphas, most=3):
        first = len(self.alphas) - len(alphas)
        return [Score(accuracy) for accuracy in self.accuracies[first : first + most]]


def below_half(accuracy):
    return accuracy < 0.5


def tried(strategy, plan):
    chosen = STRATEGIES[strategy]
    evaluate = plan.evaluate_first if chosen.parallel == "batch" else plan.evaluate
    return list(chosen.run(plan, evaluate, below_half))


def answer(trials):
    return min((trial.k for trial in trials if below_half(trial.accuracy)), default=None)


falling = st.lists(st.floats(0, 1), min_size=1, max_size=200).map(lambda values: sorted(values, reverse=True))


@settings(deadline=None)
@given(accuracies=falling, grown=st.integers(1, 64))
def test_all_strategies_agree_where_accuracy_falls(accuracies, grown):
    first = next((k for k, accuracy in enumerate(accuracies) if accuracy < 0.5), None)
    for strategy in STRATEGIES:
        plan = Fake(accuracies, grown=None if STRATEGIES[strategy].uses_grid else grown)
        trials = tried(strategy, plan)
        assert answer(trials) == first, strategy
        assert len({trial.k for trial in trials}) == len(trials), strategy  # nothing twice
        assert all(trial.accuracy == accuracies[trial.k] for trial in trials)
        if first is None:
            assert trials[-1].k == len(accuracies) - 1  # the most edited was seen


@settings(deadline=None)
@given(accuracies=st.lists(st.floats(0, 1), min_size=1, max_size=200), grown=st.integers(1, 64))
def test_where_accuracy_wavers_the_steps_stop_at_the_first_and_the_jumps_next_to_one_that_does_not_pass(
    accuracies, grown
):
    first = next((k for k, accuracy in enumerate(accuracies) if accuracy < 0.5), None)
    for strategy in STEPWISE:
        assert answer(tried(strategy, Fake(accuracies))) == first
    for strategy in JUMPING:
        trials = tried(strategy, Fake(accuracies, grown=None if STRATEGIES[strategy].uses_grid else grown))
        found = answer(trials)
        if below_half(accuracies[-1]):
            assert found is not None
        if found:
            assert below_half(accuracies[found]) and not below_half(accuracies[found - 1])
            assert found - 1 in [trial.k for trial in trials]


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_bisection_takes_a_logarithm_of_evaluations(count, share):
    first = min(int(share * count), count - 1)
    trials = tried("bisect", Fake([1.0] * first + [0.0] * (count - first)))
    assert answer(trials) == first
    assert len(trials) <= 1 + math.ceil(math.log2(count))


@settings(deadline=None)
@given(first=st.integers(0, 5000))
def test_minimal_takes_twice_a_logarithm_of_its_answer_and_makes_no_more_candidates_than_that(first):
    plan = Fake([1.0] * first + [0.0] * (20_000 - first), grown=100)
    trials = tried("minimal", plan)
    assert answer(trials) == first
    assert len(trials) <= 2 * math.log2(first + 1) + 2
    assert len(plan.alphas) <= 2 * first + 1 + 100


def test_batches_touch_no_model_and_stop_with_the_one_in_which_a_candidate_passes():
    plan = Fake([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2])
    trials = tried("batched", plan)
    assert [trial.k for trial in trials] == [0, 1, 2, 3, 4, 5]
    assert plan.applied == []
    assert [trial.dampened for trial in trials] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("strategy", WITH_GRID)
@pytest.mark.parametrize("end", [1.0, 0.5, math.nan])
def test_candidates_past_alpha_1_are_the_same_model_and_are_not_tried(strategy, end):
    alphas = [4.0, 2.0, end, 0.5, 0.25]
    trials = tried(strategy, Fake([0.9] * 5, alphas))
    assert max(trial.k for trial in trials) == 2


def test_no_weight_to_dampen_is_no_trial():
    plan = Fake([], grown=1)
    assert tried("minimal", plan) == []


def test_a_registered_strategy_is_chosen_by_its_name_and_a_name_is_taken_once(blobs, both):
    mine = register_strategy(Strategy(name="mine", run=STRATEGIES["sequential"].run, summary="as the first"))
    try:
        with pytest.raises(SearchError, match="'mine' already"):
            register_strategy(mine)
        got = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="mine")
    finally:
        del STRATEGIES["mine"]
    want = pf.ptn_search(blobs.model, *both, blobs.forget())
    assert list(map(timeless, got.trace)) == list(map(timeless, want.trace))
    assert_same_weights(got.model, weights(want.model))


# --- the search


def timeless(step):
    return replace(step, seconds=0.0)


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("options", [{}, {"s_step": 1.02}], ids=["one block", "several blocks"])
@pytest.mark.parametrize("strategy", [name for name in WITH_GRID if name in NOT_SEQUENTIAL])
def test_the_same_step_is_kept_with_the_same_weights(blobs, both, strategy, rho, options):
    want = pf.ptn_search(blobs.model, *both, blobs.forget(), rho=rho, **options)
    accuracies = [step.accuracy for step in want.trace]
    assert accuracies == sorted(accuracies, reverse=True)
    got = pf.ptn_search(blobs.model, *both, blobs.forget(), rho=rho, strategy=strategy, **options)
    assert timeless(got.kept) == timeless(want.kept)
    assert_same_weights(got.model, weights(want.model))
    assert (got.reason, got.strategy, got.warnings) == ("threshold passed", strategy, [])
    by_number = {step.step: timeless(step) for step in want.trace}
    for step in got.trace:
        assert step.step > want.kept.step or timeless(step) == by_number[step.step]
    if strategy == "bisect":
        blocks = math.ceil(want.kept.step / 64)
        assert got.evaluations <= 1 + blocks + 6
        assert [step.step for step in got.trace][:blocks] == [64 * (block + 1) for block in range(blocks)]


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.5])
def test_the_fewest_weights_that_pass_are_found_to_the_single_weight(blobs, both, rho):
    grid = pf.ptn_search(blobs.model, *both, blobs.forget(), rho=rho)
    result = pf.ptn_search(blobs.model, *both, blobs.forget(), rho=rho, strategy="minimal")
    kept = result.kept
    assert kept.accuracy <= rho and kept.dampened <= grid.kept.dampened and result.warnings == []
    differ = [(a != b).sum() for a, b in zip(result.model.parameters(), blobs.model.parameters(), strict=True)]
    assert sum(map(int, differ)) == kept.dampened
    assert [step.step for step in result.trace] == list(range(1, len(result.trace) + 1))
    assert math.isnan(kept.s) and math.isnan(kept.percentile)

    model = copy.deepcopy(blobs.model)
    plan = pf.search.RankedPlan(model, *both)
    while plan.more():
        pass
    for count in range(1, kept.dampened):
        plan.apply(count - 1)
        logits, labels = predict(model, blobs.forget())
        assert (logits.argmax(1) == labels).double().mean() > rho, count
    plan.apply(kept.dampened - 1)
    assert_same_weights(model, weights(result.model))
    assert kept.alpha == float(plan.alphas[kept.dampened - 1]) == result.alpha


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_most_edited_model_where_none_passes(blobs, strategy):
    constant = [(torch.zeros(4, 12), torch.zeros(4, dtype=torch.int64))]
    model = copy.deepcopy(blobs.model)
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([50.0, -50.0]))  # so large that no edit takes the accuracy down
    forget, retain = (pf.importance(model, loader, group_size=1) for loader in (blobs.forget(), blobs.retain()))
    retain = replace(retain, sums=20 * retain.sums)  # more ratios below 1
    with pytest.warns(pf.PotionWarning, match="saturated"):
        result = pf.ptn_search(model, forget, retain, constant, rho=0.0, strategy=strategy)
    assert result.reason == "saturated" and result.kept in result.trace
    everything = copy.deepcopy(model)
    plan = pf.EditPlan(everything, forget, retain, [1.0])
    plan.apply(0)
    assert result.kept.dampened == plan.dampened(0)
    assert_same_weights(result.model, weights(everything))


@pytest.mark.parametrize("strategy", WITH_GRID)
def test_out_of_steps_keeps_the_last_step(blobs, both, strategy):
    with pytest.warns(pf.PotionWarning, match="out of steps"):
        result = pf.ptn_search(blobs.model, *both, blobs.forget(), max_steps=3, strategy=strategy)
    assert result.reason == "out of steps" and result.kept.step == 3
    model = copy.deepcopy(blobs.model)
    pf.EditPlan(model, *both, [result.alpha]).apply(0)
    assert_same_weights(result.model, weights(model))


def test_minimal_is_out_of_steps_after_so_many_evaluations(blobs, both):
    whole = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="minimal")
    passing = next(step for step in whole.trace if step.accuracy <= 0.2)
    cut = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="minimal", max_steps=passing.step)
    assert timeless(cut.kept) == timeless(passing) and cut.reason == "threshold passed"
    with pytest.warns(pf.PotionWarning, match="out of steps"):
        cut = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="minimal", max_steps=passing.step - 1)
    assert timeless(cut.kept) == timeless(whole.trace[passing.step - 2])


def test_minimal_saturates_where_no_weight_has_a_ratio_above_1(blobs, both):
    forget, retain = both
    equal = replace(retain, sums=forget.sums * 2, samples=10, terms=10)
    with pytest.warns(pf.PotionWarning) as caught:
        result = pf.ptn_search(blobs.model, forget, equal, blobs.forget(), strategy="minimal")
    assert (result.reason, result.kept, result.alpha, result.trace) == ("saturated", None, None, [])
    assert any("no weight has a ratio of importances above 1" in str(w.message) for w in caught)
    assert result.summary()["kept_step"] is None
    assert_same_weights(result.model, weights(blobs.model))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trigger_that_was_never_learnt_leaves_the_model_alone(blobs, both, strategy):
    wrong = [(x, 1 - y) for x, y in blobs.forget()]
    with pytest.warns(pf.PotionWarning, match="not learnt"):
        result = pf.ptn_search(blobs.model, *both, wrong, strategy=strategy)
    assert (result.reason, result.trace, result.kept) == ("trigger not learnt", [], None)
    with pytest.warns(pf.PotionWarning, match="not learnt"):  # the public code applies its first step: 0 ≤ ρ · 0
        result = pf.ptn_search(blobs.model, *both, wrong, mode="reference", strategy=strategy)
    first = result.kept.step if STRATEGIES[strategy].uses_grid else result.kept.dampened
    assert (result.reason, first) == ("threshold passed", 1)


@pytest.mark.parametrize("strategy", NOT_SEQUENTIAL)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_model_changed_in_place_comes_back_intact_when_the_search_fails(blobs, both, strategy, error):
    model = copy.deepcopy(blobs.model)

    class Fails:
        reads = 0

        def __iter__(self):
            self.reads += 1
            if self.reads > (1 if STRATEGIES[strategy].parallel == "batch" else 3):
                raise error
            return iter(blobs.forget())

    with pytest.raises(error):
        pf.ptn_search(model, *both, Fails(), rho=0.0, strategy=strategy, inplace=True)
    assert_same_weights(model, weights(blobs.model))


def test_in_place_the_model_ends_at_the_step_that_was_kept(blobs, both):
    for strategy in STRATEGIES:
        model = copy.deepcopy(blobs.model)
        result = pf.ptn_search(model, *both, blobs.forget(), strategy=strategy, inplace=True)
        assert result.model is model
        want = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy=strategy)
        assert_same_weights(model, weights(want.model))


@pytest.mark.parametrize(
    ("strategy", "accuracies", "rises"),
    [
        ("bisect", {64: 0.0, 32: 0.9, 48: 0.95, 56: 0.0}, 1),
        ("bisect", {64: 0.0, 32: 0.8, 48: 0.9, 56: 0.95, 60: 0.0}, 2),
        ("minimal", {1: 1.0, 2: 0.5, 4: 0.6, 8: 0.0, 6: 0.7, 7: 0.9}, 3),
    ],
)
def test_evaluations_that_contradict_the_jumps_are_counted_in_a_warning(
    blobs, both, monkeypatch, strategy, accuracies, rises
):
    """Accuracies by step, or by number of weights; any other is 0."""
    script = iter([1.0, *accuracies.values()])
    monkeypatch.setattr(Evaluation, "__call__", lambda self: Score(next(script, 0.0)))
    with pytest.warns(pf.PotionWarning, match=f"{rises} of .* may have passed over") as caught:
        result = pf.ptn_search(blobs.model, *both, blobs.forget(), strategy=strategy)
    number = "dampened" if strategy == "minimal" else "step"
    assert [getattr(step, number) for step in result.trace][: len(accuracies)] == list(accuracies)
    assert result.warnings == [str(w.message) for w in caught]


def test_outputs_of_the_kept_model_alone_count_as_a_collapse(blobs, both, monkeypatch):
    scores = iter([Score(1.0), Score(0.0, finite=False)])  # the end of the first block collapsed
    monkeypatch.setattr(Evaluation, "__call__", lambda self: next(scores, Score(0.0)))
    assert pf.ptn_search(blobs.model, *both, blobs.forget(), strategy="bisect").warnings == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strategy": "greedy"}, "'greedy'; choose one of sequential, batched, bisect, minimal"),
        ({"strategy": "minimal", "s_step": 1.1}, "s_step .* leave it out"),
        ({"strategy": "minimal", "b_start": 1.0}, "b_start .* leave it out"),
        ({"strategy": "minimal", "retain_holds_forget": False}, "retain_holds_forget .* leave it out"),
    ],
)
def test_options_without_effect_are_refused_before_any_work(blobs, both, options, match):
    with pytest.raises(SearchError, match=match):
        pf.ptn_search(blobs.model, *both, blobs.forget(), **options)
    with pytest.raises(SearchError, match=match):
        pf.unlearn(blobs.model, None, None, **options)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_whole_method_takes_a_strategy(blobs, strategy):
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), strategy=strategy)
    assert result.strategy == result.summary()["strategy"] == strategy
    assert blobs.accuracy(result.model, triggered=True) > 0.9
    assert blobs.accuracy(result.model, triggered=False) > 0.95


def test_the_example_of_the_documentation_runs(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "add-a-search-strategy.md").read_text(encoding="utf-8")
    strategy, test = map(textwrap.dedent, re.findall(r"^ *```python\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE))
    monkeypatch.setattr(strategies, "STRATEGIES", registry := dict(STRATEGIES))
    names = dict(vars(strategies))
    exec(strategy, names)  # as if it stood at the end of the module

    def tried_by(name, plan):
        return list(registry[name].run(plan, plan.evaluate, below_half))

    names |= {"Fake": Fake, "tried": tried_by}
    exec(test, names)
    names["test_every_second_step_is_tried_and_then_the_one_before"]()
    assert registry["every-second"].jumps and "every-second" not in STRATEGIES
