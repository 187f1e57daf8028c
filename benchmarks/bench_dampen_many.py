"""dampen_many: 16 dense edited copies of a flat weight buffer, against as many copies that are edited one by one.

Floor: 12 bytes per parameter (weights, forget and retain read) and 4 for each copy.

    make bench
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from measuring import measure
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from helpers.backends import Backend
from potion_fast import ops

COPIES = 16


def case(n: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, forget, retain and the α that select 0.1 to 5 %."""
    generator = torch.Generator(device).manual_seed(0)
    weights, forget, retain = torch.rand(3, n, generator=generator, device=device).clone()
    retain += 0.01
    wanted = torch.linspace(0.95, 0.999, COPIES, device=device)
    return weights, forget, retain, (forget[:100_000] / retain[:100_000]).quantile(wanted)


def measure_copies(benchmark: BenchmarkFixture, n: int, device: str, call: Callable[[], object]) -> None:
    measure(
        benchmark,
        f"dampen_many n={n:,} on {device}",
        device,
        call,
        floor_bytes=(12 + 4 * COPIES) * n,
        parameters=n,
        rounds=5,
        warmup_rounds=1,
    )


@pytest.mark.parametrize("n", [1_000_000, 36_500_000])
def test_dampen_many(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    weights, forget, retain, alphas = case(n, backend.device)
    with backend.use():
        measure_copies(benchmark, n, backend.device, lambda: ops.dampen_many(weights, forget, retain, alphas))


@pytest.mark.parametrize("n", [1_000_000, 36_500_000])
def test_one_by_one(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    weights, forget, retain, alphas = case(n, backend.device)

    def edits() -> None:
        copies = weights.expand(COPIES, n).clone()
        for copy, alpha in zip(copies, alphas.tolist(), strict=True):
            ops.dampen(copy, forget, retain, alpha)

    with backend.use():
        measure_copies(benchmark, n, backend.device, edits)
