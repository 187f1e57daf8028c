"""accumulate: |g| of every gradient of a network, added to one flat buffer.

Floor: 12 bytes per parameter (gradient and sum read, sum written). The reference moves 28: |g| read and written, then
three streams for the sum. `torch_foreach` is what a user would write with PyTorch alone, on views of the buffer.

    make bench
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from measuring import measure, skip_without
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from helpers.backends import Backend
from potion_fast import ops

# Sizes of tensors: a ResNet-9 with 6.6 M parameters, and 12 layers of a vision transformer of width 768 (85 M).
NETWORKS = {
    "resnet9": [
        1728,
        64,
        73728,
        128,
        147456,
        128,
        147456,
        128,
        294912,
        256,
        1179648,
        512,
        2359296,
        512,
        2359296,
        512,
        5130,
    ],
    "vit_b16": [768, 768, 2304 * 768, 2304, 768 * 768, 768, 768, 768, 3072 * 768, 3072, 768 * 3072, 768] * 12,
}
BYTES_PER_PARAMETER = 12


def gradients_of(network: str, device: str) -> list[Tensor]:
    return [torch.randn(n, device=device) for n in NETWORKS[network]]


def measure_accumulate(
    benchmark: BenchmarkFixture, network: str, device: str, n: int, call: Callable[[], object]
) -> None:
    measure(
        benchmark,
        f"accumulate {network} on {device}",
        device,
        call,
        floor_bytes=BYTES_PER_PARAMETER * n,
        parameters=n,
        rounds=15,
        warmup_rounds=2,
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_potion_fast(benchmark: BenchmarkFixture, backend: Backend, network: str) -> None:
    gradients = gradients_of(network, backend.device)
    sums = torch.zeros(sum(g.numel() for g in gradients), device=backend.device)
    with backend.use():
        measure_accumulate(benchmark, network, backend.device, sums.numel(), lambda: ops.accumulate(sums, gradients))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_foreach(benchmark: BenchmarkFixture, device: str, network: str) -> None:
    skip_without(device)
    gradients = gradients_of(network, device)
    sums = torch.zeros(sum(g.numel() for g in gradients), device=device)
    views = list(sums.split([g.numel() for g in gradients]))
    call = functools.partial(_foreach, views, gradients)
    measure_accumulate(benchmark, network, device, sums.numel(), call)


def _foreach(views: list[Tensor], gradients: list[Tensor]) -> None:
    torch._foreach_add_(views, torch._foreach_abs(gradients))
