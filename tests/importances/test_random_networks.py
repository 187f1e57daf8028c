"""Random networks out of the layers of the grid, against the loop over groups in float64: exact, or refused."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import potion_fast as pf
from helpers.outcomes import BAD, CHANGED, NEEDLESS, RULE, WRONG, outcome_of_network
from helpers.random_networks import Network, Step, network, smallest
from potion_fast.errors import ImportanceError

pytestmark = pytest.mark.usefixtures("one_thread")
NUMBER = 200  # `make exactness` has ten times as many


def fails(network: Network) -> bool:
    return outcome_of_network(network).kind in BAD


@pytest.mark.parametrize(
    "seeds", [range(k, k + 20) for k in range(0, NUMBER, 20)], ids=lambda seeds: f"from-{seeds[0]}"
)
def test_a_network_is_exact_or_refused(seeds: range) -> None:
    for seed in seeds:
        tried = network(Random(seed))
        if fails(tried):
            small = smallest(tried, fails)
            pytest.fail(f"seed {seed}: {outcome_of_network(small)}\n{small}")


@settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
def test_networks_that_hypothesis_chooses_are_exact_or_refused(rng: Random) -> None:
    tried = network(rng)
    result = outcome_of_network(tried)
    assert result.kind not in BAD, f"{result}\n{tried}"


def test_a_failing_network_shrinks_to_what_fails() -> None:
    tried = next(n for n in map(network, map(Random, range(1000))) if n.mixes and len(n.kinds) > 4)
    small = smallest(tried, lambda n: n.mixes)
    assert len(small.kinds) == 1 and small.mixes and small.batches == (1,) and small.source == "floats"


@pytest.mark.parametrize("kind", BAD)
def test_what_goes_wrong_in_a_pass_is_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importance = pf.importance

    def wrong(model: nn.Module, *args: Any, **keywords: Any) -> pf.Importance:
        result = importance(model, *args, **keywords)
        if kind == CHANGED:
            next(model.parameters()).grad = torch.zeros_like(next(model.parameters()))
        elif kind == WRONG:
            result.sums[0] *= 1 + 1e-6
        else:
            raise (ImportanceError if kind == NEEDLESS else RuntimeError)("out of words")
        return result

    tried = Network("floats", (Step("linear"),), (4,), 1, "xlf")
    assert outcome_of_network(tried).kind == RULE
    monkeypatch.setattr(pf, "importance", wrong)
    assert outcome_of_network(tried).kind == kind
