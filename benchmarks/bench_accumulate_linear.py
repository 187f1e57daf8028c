"""accumulate_linear: the linear layers of vision transformers against their ordinary weight gradient.

Floor: the 2 · N · T · O · I operations of the weight gradient, which plain PyTorch computes as one matrix product of
the same operands (`torch_mm`). `torch_bmm` is what a user would write with PyTorch alone.
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

LAYERS = {  # N, T, I, O
    "vit_small qkv": (32, 65, 192, 576),
    "vit_small proj": (32, 65, 192, 192),
    "vit_small fc1": (32, 65, 192, 768),
    "vit_small fc2": (32, 65, 768, 192),
    "vit_base qkv": (8, 197, 768, 2304),
    "vit_base proj": (8, 197, 768, 768),
    "vit_base fc1": (8, 197, 768, 3072),
    "vit_base fc2": (8, 197, 3072, 768),
    "16 tokens": (64, 16, 192, 576),
    "4 tokens": (256, 4, 192, 576),
}
DEVICES = ["cpu", "cuda"]
THREADS = sorted({1, torch.get_num_threads()})


def layer(name: str, device: str) -> tuple[Tensor, Tensor]:
    N, T, I, O = LAYERS[name]  # noqa: E741
    return torch.randn(N, T, I, device=device), torch.randn(N, T, O, device=device)


def measure_layer(
    benchmark: BenchmarkFixture, name: str, device: str, threads: int, call: Callable[[], object]
) -> None:
    N, T, I, O = LAYERS[name]  # noqa: E741
    group = f"accumulate_linear {name} on {device}, {threads} threads"
    measure(benchmark, group, device, call, floor_flop=2 * N * T * I * O, threads=threads, rounds=9, warmup_rounds=2)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", LAYERS)
def test_potion_fast(benchmark: BenchmarkFixture, backend: Backend, name: str, threads: int) -> None:
    if backend.name == "cuda":
        pytest.skip("accumulate_linear has no CUDA C++ kernel")
    inputs, gradients = layer(name, backend.device)
    sums = torch.zeros(1, gradients.shape[2], inputs.shape[2], device=backend.device)
    bias = torch.zeros(1, gradients.shape[2], device=backend.device)
    with backend.use():
        call = functools.partial(ops.accumulate_linear, sums, inputs, gradients, bias=bias)
        measure_layer(benchmark, name, backend.device, threads, call)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("device", DEVICES)
def test_torch_mm(benchmark: BenchmarkFixture, device: str, name: str, threads: int) -> None:
    """The ordinary weight gradient: the cost of a layer without importances."""
    skip_without(device)
    inputs, gradients = (t.flatten(0, 1) for t in layer(name, device))
    measure_layer(benchmark, name, device, threads, lambda: torch.mm(gradients.T, inputs))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("device", DEVICES)
def test_torch_bmm(benchmark: BenchmarkFixture, device: str, name: str, threads: int) -> None:
    skip_without(device)
    inputs, gradients = layer(name, device)
    sums = torch.zeros(gradients.shape[2], inputs.shape[2], device=device)
    measure_layer(benchmark, name, device, threads, lambda: _bmm(sums, inputs, gradients))


def _bmm(sums: Tensor, inputs: Tensor, gradients: Tensor) -> None:
    sums += torch.bmm(gradients.transpose(1, 2), inputs).abs_().sum(0)
