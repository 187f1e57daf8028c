"""dampen: one edit of a flat weight buffer, with 1 % of the weights selected.

Floor: 8 bytes per parameter (forget and retain read) and 12 per selected one. `public_code` is what the public code of
the paper does: masks, then indexed multiplication.

    make bench
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from measuring import measure, skip_without
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from helpers.backends import Backend
from helpers.ratios import public_edit
from potion_fast import ops

SELECTED = 0.01


def case(n: int, device: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """Weights, forget, retain and the α that selects 1 %."""
    generator = torch.Generator(device).manual_seed(0)
    weights, forget, retain = torch.rand(3, n, generator=generator, device=device)
    retain += 0.01
    alpha = (forget[:100_000] / retain[:100_000]).quantile(1 - SELECTED)
    return weights.clone(), forget.clone(), retain.clone(), alpha.item()


def measure_dampen(benchmark: BenchmarkFixture, n: int, device: str, call: Callable[[], None]) -> None:
    measure(
        benchmark,
        f"dampen n={n:,} on {device}",
        device,
        call,
        floor_bytes=(8 + 12 * SELECTED) * n,
        parameters=n,
        rounds=15,
        warmup_rounds=2,
    )


@pytest.mark.parametrize("n", [1_000_000, 50_000_000])
def test_potion_fast(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    weights, forget, retain, alpha = case(n, backend.device)
    with backend.use():
        measure_dampen(benchmark, n, backend.device, lambda: ops.dampen(weights, forget, retain, alpha))


@pytest.mark.parametrize("n", [1_000_000, 50_000_000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_public_code(benchmark: BenchmarkFixture, device: str, n: int) -> None:
    skip_without(device)
    weights, forget, retain, alpha = case(n, device)
    measure_dampen(benchmark, n, device, lambda: public_edit(weights, forget, retain, alpha))
