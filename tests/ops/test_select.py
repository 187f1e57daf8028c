"""select: the thresholds equal, in every bit, those that NumPy gives the public code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import Backend, assert_same_bits, numbers, opcheck
from helpers.products import threads
from helpers.ratios import KINDS, importances, limited, poisoned
from potion_fast import ops
from potion_fast.ops import reference

PERCENTILES = [0, 100, 50, 99, 25, 33.3, 1e-9, 100 - 1e-9, *np.random.default_rng(7).uniform(0, 100, 12)]


def public_code(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    """np.nanpercentile with a float64 percentile, over the ratios that are not infinite."""
    with np.errstate(all="ignore"):
        ratio = forget.numpy() / retain.numpy()
    ratio = ratio[~np.isinf(ratio)]
    if not (~np.isnan(ratio)).any():
        return torch.full((len(percentiles),), torch.nan)
    return torch.tensor([np.float32(np.nanpercentile(ratio, np.float64(p))) for p in percentiles])


def run(backend: Backend, forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    with backend.use():
        return ops.select(forget.to(backend.device), retain.to(backend.device), percentiles)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1023, 100_003])
def test_bits_equal_numpy(backend: Backend, n: int) -> None:
    forget, retain = numbers(n, 1).abs(), numbers(n, 2).abs()
    assert_same_bits(run(backend, forget, retain, PERCENTILES), public_code(forget, retain, PERCENTILES))


def test_ties(backend: Backend) -> None:
    forget = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 3001)).float()
    retain = torch.from_numpy(np.random.default_rng(1).integers(0, 3, 3001)).float()
    assert_same_bits(run(backend, forget, retain, PERCENTILES), public_code(forget, retain, PERCENTILES))


def test_subnormal_ratios(backend: Backend) -> None:
    forget = torch.arange(1, 2000).float() * 1e-45
    retain = torch.full_like(forget, 3.0)
    got = run(backend, forget, retain, PERCENTILES)
    assert got.max() > 0
    assert_same_bits(got, public_code(forget, retain, PERCENTILES))


def test_ratios_that_are_not_finite_have_no_rank(backend: Backend) -> None:
    forget = torch.tensor([0.0, 5.0, 3e38, torch.nan, torch.inf, 1.0, 2.0, 4.0])
    retain = torch.tensor([0.0, 0.0, 1e-10, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert run(backend, forget, retain, [0, 50, 100]).tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("forget", "retain"), [([], []), ([0.0, 1.0, torch.nan], [0.0, 0.0, 1.0])])
def test_no_finite_ratio_gives_nan(backend: Backend, forget: list[float], retain: list[float]) -> None:
    got = run(backend, torch.tensor(forget), torch.tensor(retain), [0.0, 99.0])
    assert got.shape == (2,) and got.dtype == torch.float32 and got.isnan().all()


def test_no_percentiles_give_no_thresholds(backend: Backend) -> None:
    assert run(backend, torch.ones(3), torch.ones(3), []).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [65_535, 65_537, 131_071, 300_007])
def test_every_kind_of_data_on_both_sides_of_a_block_and_of_the_sample(backend: Backend, kind: str, n: int) -> None:
    """At 0 and 50 all ratios are selected from; at 95 and above those that a sampled bound leaves."""
    if backend.name == "triton":
        pytest.skip("no kernel of its own")
    forget, retain = importances(kind, n)
    for percentiles in ([99.96, 97.3, 95.0], [99.9999, 100.0], [0.0, 50.0, 99.0]):
        with poisoned():
            got = run(backend, forget, retain, percentiles)
        assert_same_bits(got, public_code(forget, retain, percentiles))


@pytest.mark.parametrize("n", [1_000_003, 10_000_019])
def test_millions_of_ratios_and_the_percentiles_of_a_search(backend: Backend, n: int) -> None:
    if backend.name == "triton":
        pytest.skip("no kernel of its own")
    forget, retain = importances("lognormal", n)
    percentiles = np.linspace(99.96, 95, 32).tolist()
    assert_same_bits(run(backend, forget, retain, percentiles), public_code(forget, retain, percentiles))


@pytest.mark.parametrize("kind", ["ties", "constant"])
def test_a_million_equal_ratios(backend: Backend, kind: str) -> None:
    forget, retain = importances(kind, 1_200_003)
    for percentiles in ([99.0, 50.0], [100.0]):
        assert_same_bits(run(backend, forget, retain, percentiles), public_code(forget, retain, percentiles))


def test_the_percentile_is_not_rounded_to_float32(backend: Backend) -> None:
    """NumPy computes in float32 for such a percentile, and some thresholds come out different."""
    forget, retain = torch.linspace(0, 1000, 300_001).square(), torch.ones(300_001)
    percentiles = np.random.default_rng(0).uniform(0, 100, 20).tolist()
    want = public_code(forget, retain, percentiles)
    rounded = np.percentile(forget.numpy(), np.float32(percentiles)).astype(np.float32)
    assert (want.numpy() != rounded).any()
    assert_same_bits(run(backend, forget, retain, percentiles), want)


def test_negative_importances_get_the_results_of_the_reference(backend: Backend) -> None:
    forget, retain = numbers(200_000, 1), numbers(200_000, 2)
    percentiles = [99.9, 95.0, 3.0]
    assert_same_bits(run(backend, forget, retain, percentiles), reference.select(forget, retain, percentiles))
    forget, retain = forget.abs(), retain.abs()
    forget[123_456] = -1.0
    assert_same_bits(run(backend, forget, retain, percentiles), reference.select(forget, retain, percentiles))


@pytest.mark.parametrize("instructions", ["baseline", "AVX2", "AVX-512"])
@pytest.mark.parametrize("kind", ["any", "lognormal", "subnormal"])
def test_every_instruction_set_gives_the_same_bits(kind: str, instructions: str) -> None:
    forget, retain = importances(kind, 300_007)
    want = public_code(forget, retain, [99.9, 96.0])
    with limited(instructions):
        assert_same_bits(ops.select(forget, retain, [99.9, 96.0]), want)
        assert_same_bits(ops.select(forget[1:], retain[:-1], [99.0]), public_code(forget[1:], retain[:-1], [99.0]))


@pytest.mark.parametrize("percentiles", [[99.9, 96.0], [60.0]])
def test_the_number_of_threads_changes_no_bit(percentiles: list[float]) -> None:
    forget, retain = importances("lognormal", 700_001)
    want = public_code(forget, retain, percentiles)
    for number in (1, 2, 3):
        with threads(number):
            assert_same_bits(ops.select(forget, retain, percentiles), want)


# --- The sampled bound of the C++ kernel: whatever it is, the result is right ---


def sampled_places(n: int) -> np.ndarray:
    """Where select_bound_cpu looks: splitmix64, one place in each of as many stretches."""
    bits = min(max(13, (n >> 8).bit_length() - 1), 16)
    x = np.arange(2**bits, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    edges = n * np.arange(2**bits + 1) >> bits
    return edges[:-1] + (((x >> np.uint64(40)) * np.diff(edges).astype(np.uint64)) >> np.uint64(24)).astype(np.int64)


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the pass over the survivors came to, of every call in the test."""
    if ops.native is None:
        pytest.skip(ops.native_problem)
    seen: list[str] = []
    select_kept = ops.native.select_kept_cpu

    def noted(*arguments: object) -> object:
        outcome = select_kept(*arguments)
        seen.append(outcome.name)
        return outcome

    monkeypatch.setattr(ops.native, "select_kept_cpu", noted)
    return seen


def test_survivors_suffice_where_the_sample_is_representative(outcomes: list[str]) -> None:
    forget, retain = importances("lognormal", 300_007)
    ops.select(forget, retain, [99.9, 95.0])
    assert outcomes == ["done"]


def test_a_sample_of_the_largest_ratios_only_gives_a_bound_that_is_too_high(outcomes: list[str]) -> None:
    forget, retain = importances("lognormal", 300_007)
    forget[torch.from_numpy(sampled_places(len(forget)))] *= 1e9
    got = ops.select(forget, retain, [99.9, 95.0])
    assert outcomes == ["missed"]
    assert_same_bits(got, public_code(forget, retain, [99.9, 95.0]))


def test_a_sample_of_the_smallest_ratios_only_lets_too_many_survive(outcomes: list[str]) -> None:
    forget, retain = importances("lognormal", 300_007)
    places = torch.from_numpy(sampled_places(len(forget)))
    forget[places], retain[places] = 1e-9 * torch.rand(len(places)), 1.0
    got = ops.select(forget, retain, [99.9, 95.0])
    assert outcomes == ["missed"]
    assert_same_bits(got, public_code(forget, retain, [99.9, 95.0]))


def test_a_sign_bit_is_found_at_any_index(outcomes: list[str]) -> None:
    for place in (0, 65_543, 300_006):
        for which in (0, 1):
            pair = importances("lognormal", 300_007)
            pair[which][place] = -0.0
            assert_same_bits(ops.select(*pair, [97.0]), reference.select(*pair, [97.0]))
    assert outcomes == ["negative"] * 6


positive = st.floats(0, width=32)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(positive, positive), max_size=60),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_any_importances(backend: Backend, rows: list[tuple[float, float]], percentiles: list[float]) -> None:
    forget, retain = (t.contiguous() for t in torch.tensor(rows, dtype=torch.float32).reshape(-1, 2).T)
    assert_same_bits(run(backend, forget, retain, percentiles), public_code(forget, retain, percentiles))


def test_opcheck(backend: Backend) -> None:
    forget, retain = (torch.rand(33, device=backend.device) for _ in range(2))
    opcheck(backend, "select", forget, retain, [10.0, 90.0])
