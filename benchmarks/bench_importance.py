"""A pass over batches: Σ_k |∂ℓ_k/∂θ| of every sample k, against a plain forward and backward of the batch mean.

Every method of `studies/pass_methods.py` but the compiled one makes one call over the same batches, which includes what
potion_fast does once per call. The study measures more carefully: its methods take turns, and it measures memory too.

    make bench
"""

from __future__ import annotations

import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from studies import passes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = {"cpu": 16, "cuda": 128}[DEVICE]
BATCHES = 2


@functools.cache
def case_and_sums(network: str) -> tuple[passes.Case, passes.Sums]:
    case = passes.make_case(network, BATCH, DEVICE)
    return case, passes.loop(case)([(case.inputs, case.labels)])


@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize("method", [name for name, method in passes.METHODS.items() if not method.slow_start])
@pytest.mark.parametrize("network", ["resnet9", "vit"])
def test_pass(benchmark: BenchmarkFixture, network: str, method: str) -> None:
    if problem := passes.missing(method):
        pytest.skip(problem)
    case, want = case_and_sums(network)
    run = passes.METHODS[method].prepare(case)
    got = run([(case.inputs, case.labels)])
    if got:  # the plain pass gives no sums
        error, worst = passes.worst_error(got, want)
        assert error < passes.TOLERANCE[case.precision], f"{worst} is wrong: no speed of a wrong result"

    def synchronised() -> None:
        run([(case.inputs, case.labels)] * BATCHES)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{BATCHES} batches of {BATCH}, {network} on {DEVICE}"
    benchmark.extra_info |= {"tensors": len(want), "covered": len(got), "threads": torch.get_num_threads()}
    benchmark.pedantic(synchronised, rounds=3)
