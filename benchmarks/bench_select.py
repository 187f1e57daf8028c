"""Thresholds, groups and edits of 32 candidates, from the 99.96th percentile of the ratios down to the 95th.

`select` is the percentiles alone, `select_and_partition` the percentiles and the weights of every candidate,
`partition` the weights for given thresholds, `edits` all 32 candidates in turn, group by group. Floors: 8 bytes per
parameter (forget and retain read) and 12 for each weight written out; 12 bytes for each weight edited. `public_code` is
what the public code of the paper does for each candidate; `nanpercentile` is NumPy with all percentiles in one call and
the ratios given; `dense_edits` are 32 calls of `dampen` over all weights.

    make bench
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from helpers.backends import Backend
from helpers.ratios import importances, public_edit
from potion_fast import ops
from potion_fast.edits.weight_index import WeightIndex

SIZES = [2_300_000, 36_500_000]
PERCENTILES = np.linspace(99.96, 95, 32).tolist()
KEPT = 0.05


def case(n: int, device: str) -> tuple[Tensor, Tensor]:
    """Forget and retain: lognormal, 1 % 0/0, 0.1 % x/0."""
    return tuple(tensor.to(device) for tensor in importances("lognormal", n))


def measure(
    benchmark: BenchmarkFixture, what: str, n: int, device: str, floor: float, call: Callable[[], None]
) -> None:
    def synchronised() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{what} n={n:,} on {device}"
    benchmark.extra_info |= {"parameters": n, "floor_bytes": floor, "threads": torch.get_num_threads()}
    benchmark.pedantic(synchronised, rounds=5, warmup_rounds=1)
    benchmark.extra_info["floor_gb_per_s"] = floor / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("n", SIZES)
def test_select(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    with backend.use():
        measure(benchmark, "percentiles", n, backend.device, 8 * n, lambda: ops.select(forget, retain, PERCENTILES))


@pytest.mark.parametrize("n", SIZES)
def test_select_and_partition(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    floor = (8 + 12 * KEPT) * n
    with backend.use():
        call = lambda: ops.select_and_partition(forget, retain, PERCENTILES)  # noqa: E731
        measure(benchmark, "percentiles and groups", n, backend.device, floor, call)


@pytest.mark.parametrize("n", SIZES)
def test_partition(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    floor = (8 + 12 * KEPT) * n
    with backend.use():
        alphas = ops.select(forget, retain, PERCENTILES)
        measure(benchmark, "groups", n, backend.device, floor, lambda: ops.partition(forget, retain, alphas))


@pytest.mark.parametrize("n", SIZES)
def test_edits(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    parameters = list(torch.rand(n, device=backend.device).tensor_split(150))
    with backend.use():
        _, index, *_, starts = ops.select_and_partition(forget, retain, PERCENTILES)
        places = WeightIndex(parameters, index, starts.tolist())
        values = torch.rand(len(index), device=backend.device)

        def edits() -> None:
            for k in range(len(places)):
                places.put(k, values)

        measure(benchmark, "32 edits", n, backend.device, 12 * len(index), edits)


@pytest.mark.parametrize("n", SIZES)
def test_dense_edits(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    weights = torch.rand(n, device=backend.device)
    with backend.use():
        alphas = ops.select(forget, retain, PERCENTILES).tolist()

        def edits() -> None:
            for alpha in alphas:
                ops.dampen(weights, forget, retain, alpha)

        measure(benchmark, "32 edits", n, backend.device, 12 * KEPT * n, edits)


@pytest.mark.parametrize("n", SIZES)
def test_nanpercentile(benchmark: BenchmarkFixture, n: int) -> None:
    forget, retain = case(n, "cpu")
    ratio = (forget / retain).numpy()
    ratio[np.isinf(ratio)] = np.nan
    measure(benchmark, "percentiles", n, "cpu", 8 * n, lambda: np.nanpercentile(ratio, PERCENTILES))


@pytest.mark.parametrize("n", SIZES[:1])
def test_public_code(benchmark: BenchmarkFixture, n: int) -> None:
    forget, retain = case(n, "cpu")
    weights = torch.rand(n)

    def search() -> None:
        for p in PERCENTILES:
            ratio = (forget / retain).numpy()
            alpha = float(np.nanpercentile(ratio[~np.isinf(ratio)], p))
            edited = weights.clone()
            public_edit(edited, forget, retain, alpha)

    measure(benchmark, "percentiles, groups and 32 edits", n, "cpu", (8 + 24 * KEPT) * n, search)
