"""select: the thresholds equal, in every bit, those that NumPy gives the public code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from backends import Backend, assert_same_bits, numbers
from potion_fast import ops

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


positive = st.floats(0, width=32)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(positive, positive), max_size=60),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_any_importances(backend: Backend, rows: list[tuple[float, float]], percentiles: list[float]) -> None:
    forget, retain = (t.contiguous() for t in torch.tensor(rows, dtype=torch.float32).reshape(-1, 2).T)
    assert_same_bits(run(backend, forget, retain, percentiles), public_code(forget, retain, percentiles))
