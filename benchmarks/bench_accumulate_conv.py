"""accumulate_conv: the convolutions of ResNet-9 and WRN-28-10 against their ordinary weight gradient.

Floor: the 2 · samples · positions · O · C / groups · kernel size operations of the weight gradient, which PyTorch
computes by `convolution_backward` of the same operands (`torch_backward`), in both memory formats. `torch_loop` is the
exact importance with PyTorch alone: one weight gradient per sample.

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
from potion_fast import ops

LAYERS = {  # samples, C, O, kernel, stride, padding, pixels, groups
    "resnet9 3 to 64": (64, 3, 64, 3, 1, 1, 32, 1),
    "resnet9 5x5 64 to 128": (64, 64, 128, 5, 2, 2, 32, 1),
    "resnet9 128 to 128": (64, 128, 128, 3, 1, 1, 16, 1),
    "resnet9 128 to 256": (64, 128, 256, 3, 1, 1, 16, 1),
    "resnet9 256 to 256": (64, 256, 256, 3, 1, 1, 8, 1),
    "resnet9 256 to 128": (64, 256, 128, 3, 1, 0, 8, 1),
    "wrn 160 to 160": (8, 160, 160, 3, 1, 1, 32, 1),
    "wrn 160 to 320": (8, 160, 320, 3, 2, 1, 32, 1),
    "wrn 160 to 320 shortcut": (8, 160, 320, 1, 2, 0, 32, 1),
    "wrn 320 to 320": (8, 320, 320, 3, 1, 1, 16, 1),
    "wrn 640 to 640": (8, 640, 640, 3, 1, 1, 8, 1),
    "wrn 640 to 640, batch 32": (32, 640, 640, 3, 1, 1, 8, 1),
    "depthwise 256": (64, 256, 256, 3, 1, 1, 16, 256),
}
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DEVICES = ["cpu", "cuda"]
THREADS = sorted({1, torch.get_num_threads()})


def layer(name: str, memory: str, device: str) -> tuple[Tensor, Tensor, Tensor, tuple[list[int], list[int], int]]:
    """Inputs, gradients and weight in one memory format; stride, padding and groups."""
    B, C, O, kernel, stride, padding, pixels, groups = LAYERS[name]  # noqa: E741
    inputs = torch.randn(B, C, pixels, pixels, device=device)
    weight = torch.randn(O, C // groups, kernel, kernel, device=device)
    gradients = torch.randn_like(torch.nn.functional.conv2d(inputs, weight, None, stride, padding, 1, groups))
    a, g, w = (t.contiguous(memory_format=FORMATS[memory]) for t in (inputs, gradients, weight))
    return a, g, w, ([stride, stride], [padding, padding], groups)


def measure_layer(
    benchmark: BenchmarkFixture, name: str, memory: str, device: str, threads: int, call: Callable[[], object]
) -> None:
    B, C, O, kernel, stride, padding, pixels, groups = LAYERS[name]  # noqa: E741
    positions = ((pixels + 2 * padding - kernel) // stride + 1) ** 2
    group = f"accumulate_conv {name}, {memory}, on {device}, {threads} threads"
    floor = 2 * B * positions * O * C // groups * kernel**2
    measure(benchmark, group, device, call, floor_flop=floor, threads=threads, rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
def test_potion_fast(benchmark: BenchmarkFixture, backend: Backend, name: str, memory: str, threads: int) -> None:
    if backend.name in ("reference", "cuda"):
        pytest.skip("torch_loop is the reference; there is no CUDA C++ kernel")
    inputs, gradients, weight, (stride, padding, groups) = layer(name, memory, backend.device)
    sums = torch.zeros(1, *weight.shape, device=backend.device)
    bias = torch.zeros(1, len(weight), device=backend.device)

    def call() -> None:
        ops.accumulate_conv(sums, inputs, gradients, 1, stride, padding, [1, 1], groups, bias=bias)

    with backend.use():
        measure_layer(benchmark, name, memory, backend.device, threads, call)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("device", DEVICES)
def test_torch_backward(benchmark: BenchmarkFixture, device: str, name: str, memory: str, threads: int) -> None:
    """The ordinary weight gradient: the cost of a layer without importances."""
    skip_without(device)
    inputs, gradients, weight, geometry = layer(name, memory, device)
    measure_layer(
        benchmark, name, memory, device, threads, lambda: _weight_gradient(inputs, gradients, weight, geometry)
    )


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("device", DEVICES)
def test_torch_loop(benchmark: BenchmarkFixture, device: str, name: str, memory: str, threads: int) -> None:
    skip_without(device)
    inputs, gradients, weight, geometry = layer(name, memory, device)
    sums = torch.zeros_like(weight)

    def loop() -> None:
        for a, g in zip(inputs.split(1), gradients.split(1), strict=True):
            sums.add_(_weight_gradient(a, g, weight, geometry).abs_())

    measure_layer(benchmark, name, memory, device, threads, loop)


def _weight_gradient(
    inputs: Tensor, gradients: Tensor, weight: Tensor, geometry: tuple[list[int], list[int], int]
) -> Tensor:
    stride, padding, groups = geometry
    return torch.ops.aten.convolution_backward(
        gradients, inputs, weight, None, stride, padding, [1, 1], False, [0, 0], groups, [False, True, False]
    )[1]
