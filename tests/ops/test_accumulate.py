"""accumulate: every kernel gives the bits of the reference, and writes nothing else."""

from __future__ import annotations

import time
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import SIZES, SPECIAL, Backend, Guarded, assert_same_bits, numbers, opcheck
from potion_fast import ops
from potion_fast.ops import KERNELS, reference

DTYPES = [torch.float32, torch.float64]


def run_both(backend: Backend, sums: Tensor, gradients: list[Tensor], square: bool) -> tuple[Tensor, Tensor]:
    """(what the backend makes of `sums`, what the reference makes of it), with the guards around it checked."""
    want = sums.clone()
    reference.accumulate(want, gradients, square)
    guarded = Guarded(sums, backend.device)
    with backend.use():
        ops.accumulate(guarded.inside, [g.to(backend.device) for g in gradients], square)
    guarded.assert_guards_intact()
    return guarded.inside, want


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_bits_equal_the_reference(backend: Backend, n: int, dtype: torch.dtype, square: bool) -> None:
    gradient = Guarded(numbers(n, 1, dtype), "cpu", shift=3).inside
    assert_same_bits(*run_both(backend, numbers(n, 2, dtype).abs(), [gradient], square))


@pytest.mark.parametrize("square", [False, True])
def test_every_pair_of_special_values(backend: Backend, square: bool) -> None:
    pairs = torch.cartesian_prod(torch.tensor(SPECIAL), torch.tensor(SPECIAL))
    assert_same_bits(*run_both(backend, pairs[:, 0].contiguous(), [pairs[:, 1].contiguous()], square))


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tensors_with_empty_ones_among_them(backend: Backend, dtype: torch.dtype) -> None:
    sizes = np.random.default_rng(0).integers(0, 60, 450).tolist()  # more than one CUDA launch holds
    sizes[0] = sizes[199] = sizes[200] = sizes[-1] = 0
    sizes[17] = 5000
    gradients = [numbers(n, i, dtype) for i, n in enumerate(sizes)]
    assert_same_bits(*run_both(backend, numbers(sum(sizes), 9, dtype), gradients, False))


def test_strided_gradients_are_read_in_logical_order(backend: Backend) -> None:
    base = numbers(4 * 6, 3).reshape(4, 6)
    gradients = [base.T, base[:, ::2], base[1:2].expand(5, 6), base[:, 3]]
    want = torch.cat([g.reshape(-1) for g in gradients]).abs()
    got, _ = run_both(backend, torch.zeros(want.numel()), gradients, False)
    assert_same_bits(got, want)


def test_no_gradients_leave_empty_sums_alone(backend: Backend) -> None:
    got, want = run_both(backend, torch.zeros(0), [], True)
    assert_same_bits(got, want)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.lists(st.floats(width=32), max_size=40), max_size=5),
    start=st.floats(width=32),
    square=st.booleans(),
)
def test_any_floats(backend: Backend, values: list[list[float]], start: float, square: bool) -> None:
    gradients = [torch.tensor(v, dtype=torch.float32) for v in values]
    flat = torch.cat([torch.zeros(0), *gradients]).numpy()
    got, _ = run_both(backend, torch.full((flat.size,), start), gradients, square)
    with np.errstate(all="ignore"):
        want = np.float32(start) + (flat * flat if square else np.abs(flat))
    assert_same_bits(got, torch.from_numpy(want.astype(np.float32)))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    if ops.native is None:
        pytest.skip(ops.native_problem)
    gradients = [numbers(n, n) for n in (700_001, 13, 500_000, 64)]
    sums = numbers(sum(g.numel() for g in gradients), 5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_bits(*run_both(Backend("cpu", "cpu"), sums, gradients, True))
    finally:
        torch.set_num_threads(before)


def test_threads_share_the_work() -> None:
    """Processor time of the process against that of the calling thread: load on the machine changes neither."""
    if ops.native is None:
        pytest.skip(ops.native_problem)
    sums, gradient = torch.zeros(20_000_000), torch.ones(20_000_000)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shares = [_share_of_others(sums, gradient) for _ in range(5)]
    finally:
        torch.set_num_threads(before)
    assert max(shares) > 0.2  # of a run of milliseconds the system may count less


def _share_of_others(sums: torch.Tensor, gradient: torch.Tensor) -> float:
    """Of the processor time, what threads other than the calling one spent."""
    process, thread = time.process_time(), time.thread_time()
    ops.accumulate(sums, [gradient])
    process, thread = time.process_time() - process, time.thread_time() - thread
    return (process - thread) / process


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1],
        [0, 0, 5],
        [100_003],
        [2048] * 9,
        [2047, 2049, 0, 1],
        [3] * 200,
        [3] * 201,
        [0] * 200 + [9],
        [1] * 399 + [40_000],
    ],
    ids=lambda sizes: f"{len(sizes)}x{max(sizes, default=0)}",
)
def test_the_cuda_kernel_on_the_host(
    cuda_on_cpu: ModuleType, sizes: list[int], dtype: torch.dtype, square: bool
) -> None:
    gradients = [Guarded(numbers(n, i, dtype), "cpu", shift=i % 4).inside for i, n in enumerate(sizes)]
    sums = numbers(sum(sizes), 99, dtype)
    want = sums.clone()
    reference.accumulate(want, gradients, square)
    guarded = Guarded(sums, "cpu")
    KERNELS["accumulate"]["cuda"](guarded.inside, gradients, square)
    guarded.assert_guards_intact()
    assert_same_bits(guarded.inside, want)


def test_opcheck(backend: Backend) -> None:
    sums, *gradients = (torch.rand(n, device=backend.device) for n in (33, 30, 3))
    opcheck(backend, "accumulate", sums, gradients, True)
