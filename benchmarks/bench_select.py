"""Thresholds, groups and edits of 32 candidates, from the 99.96th percentile of the ratios down to the 95th.

`select` is the percentiles alone, `select_and_partition` the percentiles and the weights of every candidate,
`partition` the weights for given thresholds, `edits` all 32 candidates in turn, group by group. Floors: 8 bytes per
parameter (forget and retain read) and 12 for each weight written out; 12 bytes for each weight edited. `public_code` is
what the public code of the paper does for each candidate; `nanpercentile` is NumPy with all percentiles in one call and
the ratios given; `dense_edits` are 32 calls of `dampen` over all weights.

    make bench
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from measuring import measure
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


def measure_ratios(
    benchmark: BenchmarkFixture, task: str, n: int, device: str, floor: float, call: Callable[[], object]
) -> None:
    group = f"{task} n={n:,} on {device}"
    measure(benchmark, group, device, call, floor_bytes=floor, parameters=n, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("n", SIZES)
def test_select(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    with backend.use():
        measure_ratios(
            benchmark, "percentiles", n, backend.device, 8 * n, lambda: ops.select(forget, retain, PERCENTILES)
        )


@pytest.mark.parametrize("n", SIZES)
def test_select_and_partition(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    floor = (8 + 12 * KEPT) * n
    with backend.use():
        call = functools.partial(ops.select_and_partition, forget, retain, PERCENTILES)
        measure_ratios(benchmark, "percentiles and groups", n, backend.device, floor, call)


@pytest.mark.parametrize("n", SIZES)
def test_partition(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    floor = (8 + 12 * KEPT) * n
    with backend.use():
        alphas = ops.select(forget, retain, PERCENTILES)
        measure_ratios(benchmark, "groups", n, backend.device, floor, lambda: ops.partition(forget, retain, alphas))


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

        measure_ratios(benchmark, "32 edits", n, backend.device, 12 * len(index), edits)


@pytest.mark.parametrize("n", SIZES)
def test_dense_edits(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    forget, retain = case(n, backend.device)
    weights = torch.rand(n, device=backend.device)
    with backend.use():
        alphas = ops.select(forget, retain, PERCENTILES).tolist()

        def edits() -> None:
            for alpha in alphas:
                ops.dampen(weights, forget, retain, alpha)

        measure_ratios(benchmark, "32 edits", n, backend.device, 12 * KEPT * n, edits)


@pytest.mark.parametrize("n", SIZES)
def test_nanpercentile(benchmark: BenchmarkFixture, n: int) -> None:
    forget, retain = case(n, "cpu")
    ratio = (forget / retain).numpy()
    ratio[np.isinf(ratio)] = np.nan
    measure_ratios(benchmark, "percentiles", n, "cpu", 8 * n, lambda: np.nanpercentile(ratio, PERCENTILES))


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

    measure_ratios(benchmark, "percentiles, groups and 32 edits", n, "cpu", (8 + 24 * KEPT) * n, search)
