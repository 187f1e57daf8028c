"""The CUDA kernels of select and partition without a GPU: compiled for the host, called by their launches."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import Guarded, assert_same_bits, numbers
from potion_fast.ops import KERNELS, _ratios, reference

INF, NAN = float("inf"), float("nan")


def test_a_barrier_that_not_all_reach_is_an_error(cuda_on_cpu: ModuleType) -> None:
    problem = ctypes.CDLL(cuda_on_cpu.__file__).problem_of_a_barrier_that_not_all_reach
    problem.restype = ctypes.c_char_p
    assert b"wait for each other" in problem()


PERCENTILES = [99.9, 95.0, 97.3, 99.0]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is kept although there is little of it; the list grows by the capacity of each attempt."""
    attempts: list[int] = []
    capacities = _ratios.capacities

    def noted(n: int, share: float) -> Iterator[int]:
        for capacity in capacities(n, share):
            attempts.append(capacity)
            yield capacity

    monkeypatch.setattr(_ratios, "KEPT_FROM", 1)
    monkeypatch.setattr(_ratios, "capacities", noted)
    return attempts


def trained(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Importances as of a network: over orders of magnitude, 1 % 0/0 and some x/0."""
    random = np.random.default_rng(seed)
    forget, retain = (torch.from_numpy(random.lognormal(0, 2, n)).float() for _ in range(2))
    where = torch.from_numpy(random.random(n))
    retain[where < 0.011] = 0
    forget[where < 0.01] = 0
    return forget, retain


def assert_groups(forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float) -> None:
    got = KERNELS["select_and_partition"]["cuda"](forget, retain, percentiles, dampening)
    assert_equal(got, reference.select_and_partition(forget, retain, percentiles, dampening))
    assert_same_bits(KERNELS["select"]["cuda"](forget, retain, percentiles), got[0])


def assert_equal(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for g, w in zip(got, want, strict=True):
        if g.is_floating_point():
            assert_same_bits(g, w)
        else:
            assert g.dtype == w.dtype and torch.equal(g, w)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 33, 1023, 3072, 3073, 20_003])
@pytest.mark.parametrize("dampening", [1.0, 0.0, 3.0])
def test_groups_of_all(cuda_on_cpu: ModuleType, n: int, dampening: float) -> None:
    assert_groups(*trained(n), PERCENTILES, dampening)


@pytest.mark.parametrize("n", [1023, 3072, 3073, 20_003, 100_001])
@pytest.mark.parametrize("dampening", [1.0, 0.0])
def test_groups_of_the_kept(cuda_on_cpu: ModuleType, kept: list[int], n: int, dampening: float) -> None:
    assert_groups(*trained(n), PERCENTILES, dampening)
    assert len(kept) == 2 and all(kept), "one attempt for each op, and it suffices"


@pytest.mark.parametrize("shifts", [(0, 0), (1, 1), (0, 2)])
def test_views_at_any_address(cuda_on_cpu: ModuleType, kept: list[int], shifts: tuple[int, int]) -> None:
    read = (Guarded(t, "cpu", shift).inside for t, shift in zip(trained(5003), shifts, strict=True))
    assert_groups(*read, PERCENTILES, 1.0)


def test_many_candidates(cuda_on_cpu: ModuleType, kept: list[int]) -> None:
    percentiles = np.random.default_rng(0).uniform(95, 100, 65).tolist()
    assert_groups(*trained(1001), percentiles[:64], 1.0)
    assert_equal(
        KERNELS["select_and_partition"]["cuda"](*trained(1001), percentiles, 1.0),
        reference.select_and_partition(*trained(1001), percentiles, 1.0),
    )


@pytest.mark.parametrize("percentiles", [[], [0.0], [100.0], [0.0, 100.0, 50.0, 33.3, 1e-9, 100 - 1e-9]], ids=str)
def test_any_percentiles(cuda_on_cpu: ModuleType, percentiles: list[float]) -> None:
    assert_groups(*trained(3001), percentiles, 1.0)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("n", [1, 100, 5003])
def test_special_numbers(cuda_on_cpu: ModuleType, kept: list[int], n: int, absolute: bool) -> None:
    forget, retain = (numbers(n, seed).abs() if absolute else numbers(n, seed) for seed in (1, 2))
    assert_groups(forget, retain, [50.0, 99.0, 100.0], 0.3)  # 50 is too low to keep anything
    assert_groups(forget, retain, [93.0, 99.0, 100.0], 0.3)


def test_ties(cuda_on_cpu: ModuleType) -> None:
    random = np.random.default_rng(0)
    forget, retain = (torch.from_numpy(random.integers(0, most, 9001)).float() for most in (4, 3))
    assert_groups(forget, retain, [0.0, 50.0, 93.0, 99.0], 1.0)
    assert_groups(torch.ones(4099), torch.ones(4099), [96.0], 2.0)


ATTEMPTS = {
    "all survive": (torch.ones(5000), torch.ones(5000)),
    "subnormal ratios": (torch.arange(5000).float() * 1e-45, torch.full((5000,), 3.0)),
    "no finite ratio": (torch.rand(5000), torch.zeros(5000)),
    "zeros": (torch.zeros(5000), torch.ones(5000)),
    "negative forget": (-trained(5000)[0], trained(5000)[1]),
    "negative retain": (trained(5000)[0], -trained(5000)[1]),
    "not a number": (torch.full((5000,), NAN), torch.ones(5000)),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_what_is_kept_does_not_suffice(
    cuda_on_cpu: ModuleType, kept: list[int], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(_ratios, "capacities", lambda n, share: iter(kept.append(c) or c for c in (1000, 0)))
    assert_groups(*ATTEMPTS[case], PERCENTILES, 1.0)
    assert kept == [1000, 0, 1000, 0], "each op tries once, and then reads all"


@functools.cache
def sampled(n: int) -> Tensor:
    """[n]: whether select.cu looks at a weight before it chooses its bound."""
    seen = torch.zeros(n, dtype=torch.bool)
    for j in range(1, (1 << 18) + 1):
        j = j * 0x9E3779B97F4A7C15 % 2**64
        j = (j ^ j >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        j = (j ^ j >> 27) * 0x94D049BB133111EB % 2**64
        seen[(j ^ j >> 31) * n >> 64] = True
    return seen


def test_the_bound_is_too_high_where_the_sample_misleads(cuda_on_cpu: ModuleType, kept: list[int]) -> None:
    forget = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 10 + 10
    forget[~sampled(200_000)] = 0.5
    assert_groups(forget, torch.ones(200_000), [93.0, 99.0], 0.0)
    assert kept[1] == kept[3] == 0 and len(kept) == 4


def test_smaller_ratios_than_those_left_out_are_kept(cuda_on_cpu: ModuleType, kept: list[int]) -> None:
    """For the smallest numbers 1.25 · 2⁻¹⁴⁹ rounds to 2⁻¹⁴⁹: the ratio 1 passes a bound of 1.25, and 1.2 does not."""
    n = 200_000
    forget, retain, seen = torch.full((n,), 1.2), torch.ones(n), sampled(n)
    forget[::2] = retain[::2] = 2.0**-149
    forget[seen], retain[seen] = torch.tensor([1.25] + 12 * [0.0]).repeat(n)[:n][seen], 1.0
    assert_groups(forget, retain, [93.0, 99.0], 0.0)
    assert kept[1] == kept[3] == 0 and len(kept) == 4


@pytest.mark.parametrize(
    "alphas",
    [
        [],
        [NAN],
        [0.5, NAN, INF, 3.0, -1.0, 3.0, 0.0, -INF, 1e-40],
        [2.0, 0.5, NAN, INF, 0.5, 70.0],
        [0.0, -0.0],
        (torch.rand(255, generator=torch.Generator().manual_seed(0)) * 50).tolist(),
        (torch.rand(256, generator=torch.Generator().manual_seed(0)) * 50).tolist(),
    ],
    ids=lambda alphas: f"{len(alphas)}:{alphas[:2]}",
)
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("few", [True, False])
def test_groups_of_given_alphas(
    cuda_on_cpu: ModuleType, request: pytest.FixtureRequest, alphas: list[float], absolute: bool, few: bool
) -> None:
    if few:
        request.getfixturevalue("kept")
    forget, retain = (numbers(5003, seed).abs() if absolute else numbers(5003, seed) for seed in (1, 2))
    got = KERNELS["partition"]["cuda"](forget, retain, torch.tensor(alphas), 1.0)
    assert_equal(got, reference.partition(forget, retain, torch.tensor(alphas), 1.0))


def test_wide_index(cuda_on_cpu: ModuleType, kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ratios, "INT64_FROM", 4000)
    forget, retain = trained(4000)
    index = KERNELS["select_and_partition"]["cuda"](forget, retain, PERCENTILES, 1.0)[1]
    assert index.dtype == torch.int64
    assert torch.equal(index, reference.select_and_partition(forget, retain, PERCENTILES, 1.0)[1].long())


importances = st.floats(0, width=32) | st.sampled_from([0.0, 1.0, 1e-45, 1e-38, 3e38, INF, NAN])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(importances, importances), max_size=80),
    percentiles=st.lists(st.floats(0, 100) | st.floats(93, 100), min_size=1, max_size=3),
    dampening=st.sampled_from([0.0, 0.5, 1.0, 10.0]),
)
def test_any_importances(
    cuda_on_cpu: ModuleType,
    kept: list[int],
    rows: list[tuple[float, float]],
    percentiles: list[float],
    dampening: float,
) -> None:
    forget, retain = (t.contiguous() for t in torch.tensor(rows, dtype=torch.float32).reshape(-1, 2).T)
    assert_groups(forget, retain, percentiles, dampening)
