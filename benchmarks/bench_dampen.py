"""dampen: one edit of a flat weight buffer, with 1 % of the weights selected.

Floor: 8 bytes per parameter (forget and retain read) and 12 per selected one. `public_code` is what the public code of
the paper does: masks, then indexed multiplication.

    make bench
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
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


def measure(benchmark: BenchmarkFixture, n: int, device: str, call: Callable[[], None]) -> None:
    def synchronised() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    floor = (8 + 12 * SELECTED) * n
    benchmark.group = f"dampen n={n:,} on {device}"
    benchmark.extra_info |= {"parameters": n, "floor_bytes": floor, "threads": torch.get_num_threads()}
    benchmark.pedantic(synchronised, rounds=15, warmup_rounds=2)
    benchmark.extra_info["floor_gb_per_s"] = floor / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("n", [1_000_000, 50_000_000])
def test_potion_fast(benchmark: BenchmarkFixture, backend: Backend, n: int) -> None:
    weights, forget, retain, alpha = case(n, backend.device)
    with backend.use():
        measure(benchmark, n, backend.device, lambda: ops.dampen(weights, forget, retain, alpha))


@pytest.mark.parametrize("n", [1_000_000, 50_000_000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_public_code(benchmark: BenchmarkFixture, device: str, n: int) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    weights, forget, retain, alpha = case(n, device)
    measure(benchmark, n, device, lambda: public_edit(weights, forget, retain, alpha))
