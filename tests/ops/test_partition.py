"""group and select_and_partition: the weights that candidates change, by the first candidate that selects them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import Backend, assert_same_bits, numbers
from helpers.products import threads
from helpers.ratios import KINDS, importances, limited, poisoned
from potion_fast import ops
from potion_fast.ops import reference

INF, NAN = float("inf"), float("nan")
ALPHAS = [3.0, 30.0, 1.2, NAN, 1.2, 0.4, 1e30, 0.0, INF, -1.0, 0.4000001]
Groups = tuple[Tensor, Tensor, Tensor, Tensor]


def by_definition(forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Groups:
    """In NumPy, candidate by candidate, for importances that are not negative."""
    f, o = forget.numpy(), retain.numpy()
    falling = alphas.sort(descending=True, stable=True).values.numpy()
    with np.errstate(all="ignore"):
        changed = (np.float32(dampening) * o) / f < 1
        selected = f > falling[:, None] * o  # [K, n]
    first = np.where(changed & selected.any(0), selected.argmax(0), len(falling)) if len(falling) else np.zeros(len(f))
    index = np.argsort(first, kind="stable")
    starts = np.searchsorted(first[index], np.arange(len(falling) + 1))
    index = torch.from_numpy(index[: starts[-1]])
    return index.int(), forget[index], retain[index], torch.from_numpy(starts)


def run(backend: Backend, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Groups:
    with backend.use(), poisoned():
        got = ops.partition(*(t.to(backend.device) for t in (forget, retain, alphas)), dampening)
    assert got[3].device.type == "cpu"
    return got


def assert_same_groups(got: Groups, want: Groups) -> None:
    for mine, other in zip(got, want, strict=True):
        assert mine.dtype == other.dtype
        if mine.dtype == torch.float32:
            assert_same_bits(mine, other)
        else:
            assert torch.equal(mine.cpu(), other.cpu())


@pytest.mark.parametrize("dampening", [1.0, 0.0, 0.3, 40.0])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_those_of_the_definition(backend: Backend, kind: str, dampening: float) -> None:
    for n in (0, 1, 17, 1023, 70_001):
        forget, retain = importances(kind, n)
        for alphas in (ALPHAS, ALPHAS[:1], [NAN, NAN], []):
            wanted = by_definition(forget, retain, torch.tensor(alphas), dampening)
            assert_same_groups(run(backend, forget, retain, torch.tensor(alphas), dampening), wanted)


def test_special_values(backend: Backend) -> None:
    special = torch.tensor([0.0, 1e-45, 1.1754944e-38, 1.0, 1.0000001, 3e38, INF, NAN])
    forget, retain = (t.contiguous() for t in torch.cartesian_prod(special, special).T)
    for dampening in (0.0, 1.0, 1e30):
        for alphas in (torch.tensor(ALPHAS), torch.tensor([*ALPHAS, -INF]), torch.tensor([-INF])):
            want = by_definition(forget, retain, alphas, dampening)
            assert_same_groups(run(backend, forget, retain, alphas, dampening), want)


def test_the_product_decides_at_the_edge_and_not_the_ratio(backend: Backend) -> None:
    """f / o > α in float32, yet f = α · o: such a weight is in no group, or in that of a smaller α."""
    random = torch.Generator().manual_seed(0)
    retain = torch.rand(2_000_000, generator=random) + 0.5
    alphas = torch.tensor([2.7, 1.3])
    forget = alphas[torch.randint(2, (len(retain),), generator=random)] * retain
    edge = (forget / retain > alphas[0]) & ~(forget > alphas[0] * retain)
    assert edge.any()
    got = run(backend, forget, retain, alphas, 1.0)
    assert_same_groups(got, by_definition(forget, retain, alphas, 1.0))


def test_more_candidates_than_a_block_of_a_search_has(backend: Backend) -> None:
    forget, retain = importances("lognormal", 70_001)
    alphas = torch.linspace(1.5, 80, 301)
    assert_same_groups(run(backend, forget, retain, alphas, 1.0), by_definition(forget, retain, alphas, 1.0))


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


def test_ten_million_weights_end_as_the_reference_has_them(backend: Backend) -> None:
    if backend.name == "triton":
        pytest.skip("no kernel of its own")
    forget, retain = importances("lognormal", 10_000_019)
    weights = numbers(len(forget), 3)
    with backend.use():
        read = (t.to(backend.device) for t in (forget, retain))
        alphas, index, f, o, starts = (t.cpu() for t in ops.select_and_partition(*read, [99.96, 97.3, 95.0]))
    for k, alpha in enumerate(alphas.tolist()):
        chosen = slice(int(starts[k + 1]))
        values = weights[index[chosen]]
        reference.dampen(values, f[chosen], o[chosen], alpha, 1.0)
        edited, wanted = weights.clone(), weights.clone()
        edited[index[chosen]] = values
        reference.dampen(wanted, forget, retain, alpha, 1.0)
        assert_same_bits(edited, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 3, 1000, 65_537, 300_007])
def test_select_and_partition_is_select_and_then_partition(backend: Backend, kind: str, n: int) -> None:
    forget, retain = importances(kind, n)
    for percentiles in ([99.96, 95.0, 97.0, 97.0], [99.0, 30.0], []):
        with backend.use(), poisoned():
            got = ops.select_and_partition(forget.to(backend.device), retain.to(backend.device), percentiles, 0.9)
        alphas = reference.select(forget, retain, percentiles)
        assert_same_bits(got[0], alphas)
        assert_same_groups(got[1:], by_definition(forget, retain, alphas, 0.9))


@pytest.mark.parametrize("instructions", ["baseline", "AVX2", "AVX-512"])
@pytest.mark.parametrize("kind", ["any", "lognormal", "subnormal"])
def test_every_instruction_set_gives_the_same_bits(kind: str, instructions: str) -> None:
    forget, retain = importances(kind, 200_003)
    alphas = torch.tensor(ALPHAS)
    with limited(instructions), poisoned():
        got, chosen = (
            ops.partition(forget, retain, alphas, 0.7),
            ops.select_and_partition(forget, retain, [99.0, 96.0], 0.7),
        )
    assert_same_groups(got, by_definition(forget, retain, alphas, 0.7))
    assert_same_groups(chosen[1:], by_definition(forget, retain, chosen[0], 0.7))


def test_the_number_of_threads_changes_neither_bits_nor_order() -> None:
    forget, retain = importances("lognormal", 700_001)
    for percentiles in ([99.9, 96.0, 98.0], [99.9, 40.0]):
        alphas = reference.select(forget, retain, percentiles)
        want = by_definition(forget, retain, alphas, 1.0)
        for number in (1, 2, 3):
            with threads(number):
                assert_same_groups(ops.partition(forget, retain, alphas), want)
                assert_same_groups(ops.select_and_partition(forget, retain, percentiles)[1:], want)


def test_views_and_strides_are_read_as_they_are(backend: Backend) -> None:
    forget, retain = importances("lognormal", 100_001)
    alphas = torch.tensor([9.0, NAN, 2.0, NAN])[::2]
    want = by_definition(forget[1::2].contiguous(), retain[:-1:2].contiguous(), alphas.contiguous(), 1.0)
    on_device = [t.to(backend.device) for t in (forget, retain)]
    with backend.use():
        got = ops.partition(on_device[0][1::2], on_device[1][:-1:2], alphas.to(backend.device), 1.0)
    assert_same_groups(got, want)


def test_past_2_to_the_31_elements() -> None:
    """Zeros that no one has written take no memory; a place past the 31 bits needs int64."""
    if ops.native is None:
        pytest.skip(ops.native_problem)
    n = 2**31 + 65_537
    try:
        forget, retain = (torch.from_numpy(np.zeros(n, np.float32)) for _ in range(2))
    except MemoryError:
        pytest.skip("no address space for two arrays of 8 GiB")
    places = [5, 2**31 - 1, 2**31, 2**31 + 65_536, 77]
    for place, f in zip(places, (8.0, 2.0, 4.0, 16.0, 3.0), strict=True):
        forget[place], retain[place] = f, 1.0
    alphas, index, f, o, starts = ops.select_and_partition(forget, retain, [50.0, 75.0])
    assert alphas.tolist() == [4.0, 8.0]
    assert index.dtype == torch.int64 and index.tolist() == [2**31 + 65_536, 5]
    assert f.tolist() == [16.0, 8.0] and o.tolist() == [1.0, 1.0] and starts.tolist() == [0, 1, 2]
    found = index.clone()
    assert ops.take([forget[:7], forget[7:]], [0, 7], [0, 1, 2], found.sort().values).tolist() == [8.0, 16.0]
    ops.put([forget[:7], forget[7:]], [0, 7], [0, 1, 2], found.sort().values, torch.tensor([1.0, 2.0]))
    assert forget[5] == 1 and forget[-1] == 2


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
        run(backend, forget, retain, candidates, dampening), by_definition(forget, retain, candidates, dampening)
    )
