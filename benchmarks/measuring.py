"""Measuring one call against its floor, for the benchmarks of the operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture


def skip_without(device: str) -> None:
    """Skip a benchmark on `device`, "cpu" or "cuda", where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


def measure(
    benchmark: BenchmarkFixture,
    group: str,
    device: str,
    call: Callable[[], object],
    *,
    rounds: int,
    warmup_rounds: int,
    floor_bytes: float | None = None,
    floor_flop: float | None = None,
    parameters: int | None = None,
    threads: int | None = None,
) -> None:
    """Time a call, and report it as a rate of the least that it has to move or to compute.

    Args:
        benchmark: The fixture of pytest-benchmark.
        group: Calls with the same group are compared.
        device: "cpu" or "cuda"; the clock stops when the device has finished.
        call: What is timed.
        rounds: How often.
        warmup_rounds: How often before, untimed.
        floor_bytes: Bytes that must be moved; reported as `floor_gb_per_s`.
        floor_flop: Operations of the product; reported as `floor_gflop_per_s`.
        parameters: How many weights, for the report.
        threads: CPU threads; None for those that PyTorch has.
    """

    def synchronised() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    before = torch.get_num_threads()
    threads = before if threads is None else threads
    info = {"parameters": parameters, "floor_bytes": floor_bytes, "floor_flop": floor_flop, "threads": threads}
    benchmark.group = group
    benchmark.extra_info |= {name: value for name, value in info.items() if value is not None}
    torch.set_num_threads(threads)
    try:
        benchmark.pedantic(synchronised, rounds=rounds, warmup_rounds=warmup_rounds)
    finally:
        torch.set_num_threads(before)
    median = benchmark.stats.stats.median
    if floor_bytes is not None:
        benchmark.extra_info["floor_gb_per_s"] = floor_bytes / median / 1e9
    if floor_flop is not None:
        benchmark.extra_info["floor_gflop_per_s"] = floor_flop / median / 1e9
