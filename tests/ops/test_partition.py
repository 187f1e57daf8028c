"""group and select_and_partition: the weights that candidates change, by the first candidate that selects them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import Backend, numbers, opcheck
from helpers.products import threads
from helpers.ratios import (
    KINDS,
    Groups,
    assert_same_groups,
    groups_by_definition,
    importances,
    limited,
    poisoned,
)
from potion_fast import ops
from potion_fast.ops import reference

INF, NAN = float("inf"), float("nan")
ALPHAS = [3.0, 30.0, 1.2, NAN, 1.2, 0.4, 1e30, 0.0, INF, -1.0, 0.4000001]


def run(backend: Backend, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Groups:
    with backend.use(), poisoned():
        got = ops.partition(*(t.to(backend.device) for t in (forget, retain, alphas)), dampening)
    assert got[3].device.type == "cpu"
    return got


@pytest.mark.parametrize("dampening", [1.0, 0.0, 0.3, 40.0])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_those_of_the_definition(backend: Backend, kind: str, dampening: float) -> None:
    for n in (0, 1, 17, 1023, 70_001):
        forget, retain = importances(kind, n)
        for alphas in (ALPHAS, ALPHAS[:1], [NAN, NAN], []):
            wanted = groups_by_definition(forget, retain, torch.tensor(alphas), dampening)
            assert_same_groups(run(backend, forget, retain, torch.tensor(alphas), dampening), wanted)


def test_special_values(backend: Backend) -> None:
    special = torch.tensor([0.0, 1e-45, 1.1754944e-38, 1.0, 1.0000001, 3e38, INF, NAN])
    forget, retain = (t.contiguous() for t in torch.cartesian_prod(special, special).T)
    for dampening in (0.0, 1.0, 1e30):
        for alphas in (torch.tensor(ALPHAS), torch.tensor([*ALPHAS, -INF]), torch.tensor([-INF])):
            want = groups_by_definition(forget, retain, alphas, dampening)
            assert_same_groups(run(backend, forget, retain, alphas, dampening), want)


def test_the_product_decides_at_the_edge_and_not_the_ratio(backend: Backend) -> None:
    """f / r > α in float32, yet f = α · r: such a weight is in no group, or in that of a smaller α."""
    random = torch.Generator().manual_seed(0)
    retain = torch.rand(2_000_000, generator=random) + 0.5
    alphas = torch.tensor([2.7, 1.3])
    forget = alphas[torch.randint(2, (len(retain),), generator=random)] * retain
    edge = (forget / retain > alphas[0]) & ~(forget > alphas[0] * retain)
    assert edge.any()
    got = run(backend, forget, retain, alphas, 1.0)
    assert_same_groups(got, groups_by_definition(forget, retain, alphas, 1.0))


def test_more_candidates_than_a_block_of_a_search_has(backend: Backend) -> None:
    forget, retain = importances("lognormal", 70_001)
    alphas = torch.linspace(1.5, 80, 301)
    assert_same_groups(run(backend, forget, retain, alphas, 1.0), groups_by_definition(forget, retain, alphas, 1.0))


def test_negative_importances_get_the_results_of_the_reference(backend: Backend) -> None:
    forget, retain = numbers(70_001, 1), numbers(70_001, 2)
    for dampening in (0.0, 1.0):
        alphas = torch.tensor(ALPHAS)
        got = run(backend, forget, retain, alphas, dampening)
        assert_same_groups(got, reference.partition(forget, retain, alphas, dampening))


def test_the_groups_are_the_weights_that_dampening_changes(backend: Backend) -> None:
    forget, retain = importances("any", 50_001)
    alphas = torch.tensor([0.3, 2.0, 30.0], device=backend.device)
    index, *_, starts = run(backend, forget, retain, alphas, 0.8)
    with backend.use():
        rows = ops.dampen_many(*(t.to(backend.device) for t in (torch.ones(50_001), forget, retain)), alphas, 0.8)
    for k, stop in zip(range(3), reversed(starts.tolist()), strict=False):
        assert torch.equal(index[:stop].long().sort().values, (rows[k] != 1).nonzero().flatten())


@pytest.mark.parametrize("instructions", ["baseline", "AVX2", "AVX-512"])
@pytest.mark.parametrize("kind", ["any", "lognormal", "subnormal"])
def test_every_instruction_set_gives_the_same_bits(kind: str, instructions: str) -> None:
    forget, retain = importances(kind, 200_003)
    alphas = torch.tensor(ALPHAS)
    with limited(instructions), poisoned():
        got = ops.partition(forget, retain, alphas, 0.7)
    assert_same_groups(got, groups_by_definition(forget, retain, alphas, 0.7))


def test_the_number_of_threads_changes_neither_bits_nor_order() -> None:
    forget, retain = importances("lognormal", 700_001)
    for percentiles in ([99.9, 96.0, 98.0], [99.9, 40.0]):
        alphas = reference.select(forget, retain, percentiles)
        want = groups_by_definition(forget, retain, alphas, 1.0)
        for number in (1, 2, 3):
            with threads(number):
                assert_same_groups(ops.partition(forget, retain, alphas), want)


def test_views_and_strides_are_read_as_they_are(backend: Backend) -> None:
    forget, retain = importances("lognormal", 100_001)
    alphas = torch.tensor([9.0, NAN, 2.0, NAN])[::2]
    want = groups_by_definition(forget[1::2].contiguous(), retain[:-1:2].contiguous(), alphas.contiguous(), 1.0)
    on_device = [t.to(backend.device) for t in (forget, retain)]
    with backend.use():
        got = ops.partition(on_device[0][1::2], on_device[1][:-1:2], alphas.to(backend.device), 1.0)
    assert_same_groups(got, want)


positive = st.floats(0, width=32)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(positive, positive), max_size=60),
    alphas=st.lists(st.floats(width=32), max_size=6),
    dampening=st.floats(0, 100, width=32),
)
def test_any_importances(
    backend: Backend, rows: list[tuple[float, float]], alphas: list[float], dampening: float
) -> None:
    forget, retain = (t.contiguous() for t in torch.tensor(rows, dtype=torch.float32).reshape(-1, 2).T)
    candidates = torch.tensor(alphas, dtype=torch.float32)
    assert_same_groups(
        run(backend, forget, retain, candidates, dampening), groups_by_definition(forget, retain, candidates, dampening)
    )


def test_opcheck(backend: Backend) -> None:
    forget, retain, alphas = (torch.rand(n, device=backend.device) for n in (33, 33, 4))
    opcheck(backend, "partition", forget, retain, alphas, 1.0)
