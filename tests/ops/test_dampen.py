"""dampen: every kernel gives the bits of the reference, and the reference those of the public code."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import SIZES, SPECIAL, Backend, Guarded, assert_same_bits, numbers, opcheck
from helpers.ratios import dampening_case, publicly_dampened
from potion_fast import ops
from potion_fast.ops import KERNELS, reference

INF, NAN = float("inf"), float("nan")
TINY = 2.0**-149  # the smallest subnormal


def run(backend: Backend, weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> Tensor:
    """What the backend makes of the weights, with the guards around them checked."""
    guarded = Guarded(weights, backend.device)
    read = [Guarded(t, backend.device, shift).inside for t, shift in ((forget, 2), (retain, 3))]
    with backend.use():
        ops.dampen(guarded.inside, *read, alpha, dampening)
    guarded.assert_guards_intact()
    return guarded.inside


@pytest.mark.parametrize("alpha", [0.0, 1e-30, 0.5, 1.0, 3.7, 1e30, INF, NAN])
@pytest.mark.parametrize("dampening", [1.0, 0.3, 7.0])
def test_bits_equal_the_publicly_dampened(backend: Backend, alpha: float, dampening: float) -> None:
    weights, forget, retain = dampening_case(5003)
    got = run(backend, weights, forget, retain, alpha, dampening)
    assert_same_bits(got, publicly_dampened(weights, forget, retain, alpha, dampening))


@pytest.mark.parametrize("n", SIZES)
def test_bits_equal_the_reference_at_every_size(backend: Backend, n: int) -> None:
    weights, forget, retain = dampening_case(n)
    want = weights.clone()
    reference.dampen(want, forget, retain, 1.3, 0.9)
    assert_same_bits(run(backend, weights, forget, retain, 1.3, 0.9), want)


def test_every_triple_of_special_values(backend: Backend) -> None:
    special = torch.tensor(SPECIAL)
    weights, forget, retain = (t.contiguous() for t in torch.cartesian_prod(special, special, special).T)
    for alpha in (-1.0, 0.0, 1.0, INF):
        want = publicly_dampened(weights, forget, retain, alpha, 1.0)
        assert_same_bits(run(backend, weights, forget, retain, alpha, 1.0), want)


@pytest.mark.parametrize(
    ("weight", "forget", "retain", "alpha", "want"),
    [
        (2.0, 4.0, 1.0, 2.0, 0.5),  # θ · (1 / 4)
        (-2.0, 4.0, 1.0, 2.0, -0.5),  # negative weights as well, unlike Algorithm 1 as printed
        (2.0, 2.0, 4.0, 0.1, 2.0),  # the factor is capped at 1
        (3.0, 1.0, 0.0, 5.0, 0.0),  # x/0 is always selected
        (-3.0, 1.0, 0.0, 5.0, -0.0),
        (3.0, 0.0, 0.0, 5.0, 3.0),  # 0/0 never is
        (3.0, 2.0, 1.0, 2.0, 3.0),  # a tie is not above the threshold
        (2.0, 2.0000002, 1.0, 2.0, 1 - 2**-23),  # one ulp above is
        (-0.0, 1.0, 5.0, 9.0, -0.0),
        (3.0, INF, 1.0, 5.0, 0.0),
        (3.0, INF, INF, 0.5, 3.0),
        (3.0, NAN, 1.0, 0.5, 3.0),
        (3.0, 1.0, NAN, 0.5, 3.0),
        (4.0, 4 * TINY, TINY, 2.0, 1.0),  # subnormals are not flushed
        (4 * TINY, 2.0, 1.0, 1.0, 2 * TINY),
        (3.0, 1.0, 0.1, NAN, 3.0),
    ],
)
def test_edges(backend: Backend, weight: float, forget: float, retain: float, alpha: float, want: float) -> None:
    tensors = [torch.tensor([x]) for x in (weight, forget, retain)]
    assert_same_bits(run(backend, *tensors, alpha, 1.0), torch.tensor([want]))


floats = st.floats(width=32)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(floats, floats, floats), max_size=80),
    alpha=floats,
    dampening=st.floats(0, 100, width=32),
)
def test_any_floats(backend: Backend, rows: list[tuple[float, ...]], alpha: float, dampening: float) -> None:
    weights, forget, retain = (t.contiguous() for t in torch.tensor(rows, dtype=torch.float32).reshape(-1, 3).T)
    want = publicly_dampened(weights, forget, retain, alpha, dampening)
    assert_same_bits(run(backend, weights, forget, retain, alpha, dampening), want)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    if ops.native is None:
        pytest.skip(ops.native_problem)
    weights, forget, retain = dampening_case(1_200_077)
    want = publicly_dampened(weights, forget, retain, 1.1, 1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_bits(run(Backend("cpu", "cpu"), weights, forget, retain, 1.1, 1.0), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n", [*SIZES, 8 * 2048 - 1, 8 * 2048, 16 * 2048 + 1])
def test_the_cuda_kernel_on_the_host(cuda_on_cpu: ModuleType, n: int) -> None:
    weights, forget, retain = numbers(n, 1), numbers(n, 2).abs(), numbers(n, 3).abs()
    want = weights.clone()
    reference.dampen(want, forget, retain, 0.7, 1.3)
    guarded = Guarded(weights, "cpu")
    KERNELS["dampen"]["cuda"](guarded.inside, forget, retain, 0.7, 1.3)
    guarded.assert_guards_intact()
    assert_same_bits(guarded.inside, want)


def test_opcheck(backend: Backend) -> None:
    weights, forget, retain = (torch.rand(33, device=backend.device) for _ in range(3))
    opcheck(backend, "dampen", weights, forget, retain, 1.0, 1.0)
