"""dampen and dampen_many: every kernel gives the bits of the reference, and the reference those of the public code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import SIZES, SPECIAL, Backend, Guarded, assert_same_bits, numbers
from helpers.products import threads
from helpers.ratios import poisoned
from potion_fast import ops
from potion_fast.ops import reference

INF, NAN = float("inf"), float("nan")
TINY = 2.0**-149  # the smallest subnormal


def public_code(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> Tensor:
    """Select, then multiply, as the public code has it, in NumPy."""
    theta, f, o = weights.numpy().copy(), forget.numpy(), retain.numpy()
    with np.errstate(all="ignore"):
        locations = f > np.float32(alpha) * o
        update = (np.float32(dampening) * o) / f
        update[update > 1] = 1
        theta[locations] *= update[locations]
    return torch.from_numpy(theta)


def run(backend: Backend, weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> Tensor:
    """What the backend makes of the weights, with the guards around them checked."""
    guarded = Guarded(weights, backend.device)
    read = [Guarded(t, backend.device, shift).inside for t, shift in ((forget, 2), (retain, 3))]
    with backend.use():
        ops.dampen(guarded.inside, *read, alpha, dampening)
    guarded.assert_guards_intact()
    return guarded.inside


def case(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, forget, retain: means over many orders of magnitude, with zeros, ties and values that are not finite."""
    forget, retain = numbers(n, 1).abs(), numbers(n, 2).abs()
    retain[::3] = forget[::3] * torch.from_numpy(np.random.default_rng(3).uniform(0.2, 5, len(forget[::3]))).float()
    retain[::11] = forget[::11]
    return numbers(n, 4), forget, retain


@pytest.mark.parametrize("alpha", [0.0, 1e-30, 0.5, 1.0, 3.7, 1e30, INF, NAN])
@pytest.mark.parametrize("dampening", [1.0, 0.3, 7.0])
def test_bits_equal_the_public_code(backend: Backend, alpha: float, dampening: float) -> None:
    weights, forget, retain = case(5003)
    got = run(backend, weights, forget, retain, alpha, dampening)
    assert_same_bits(got, public_code(weights, forget, retain, alpha, dampening))


@pytest.mark.parametrize("n", SIZES)
def test_bits_equal_the_reference_at_every_size(backend: Backend, n: int) -> None:
    weights, forget, retain = case(n)
    want = weights.clone()
    reference.dampen(want, forget, retain, 1.3, 0.9)
    assert_same_bits(run(backend, weights, forget, retain, 1.3, 0.9), want)


def test_every_triple_of_special_values(backend: Backend) -> None:
    special = torch.tensor(SPECIAL)
    weights, forget, retain = (t.contiguous() for t in torch.cartesian_prod(special, special, special).T)
    for alpha in (-1.0, 0.0, 1.0, INF):
        want = public_code(weights, forget, retain, alpha, 1.0)
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
    want = public_code(weights, forget, retain, alpha, dampening)
    assert_same_bits(run(backend, weights, forget, retain, alpha, dampening), want)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    if ops.native is None:
        pytest.skip(ops.native_problem)
    weights, forget, retain = case(1_200_077)
    want = public_code(weights, forget, retain, 1.1, 1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_bits(run(Backend("cpu", "cpu"), weights, forget, retain, 1.1, 1.0), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n", [0, 1, 1023])
@pytest.mark.parametrize("alphas", [[], [0.5], [8.0, 2.0, 0.5, NAN]])
def test_dampen_many_is_dampen_once_per_alpha(backend: Backend, n: int, alphas: list[float]) -> None:
    weights, forget, retain = (t.to(backend.device) for t in case(n))
    before = weights.clone()
    with backend.use():
        got = ops.dampen_many(weights, forget, retain, torch.tensor(alphas, device=backend.device), 0.8)
    assert_same_bits(weights, before)
    assert got.shape == (len(alphas), n)
    for row, alpha in zip(got, alphas, strict=True):
        assert_same_bits(row, public_code(before.cpu(), forget.cpu(), retain.cpu(), alpha, 0.8))


def test_dampen_many_on_large_buffers_any_strides_and_threads(backend: Backend) -> None:
    weights, forget, retain = case(300_001)
    alphas = torch.tensor([3.0, 0.7, NAN, 40.0, 1.1])
    want = torch.stack([public_code(weights, forget, retain, alpha, 1.0) for alpha in alphas.tolist()])
    on_device = [t.to(backend.device) for t in (weights, forget, retain, alphas)]
    for number in (1, 2, 3) if backend.name == "cpu" else (1,):
        with backend.use(), threads(number), poisoned():
            assert_same_bits(ops.dampen_many(*on_device), want)
    with backend.use():
        strided = ops.dampen_many(*(t[1::2] for t in on_device[:3]), on_device[3][::2])
    for row, alpha in zip(strided, alphas[::2].tolist(), strict=True):
        assert_same_bits(row, public_code(weights[1::2], forget[1::2], retain[1::2], alpha, 1.0))


def test_selected_sets_are_nested_in_alpha(backend: Backend) -> None:
    weights, forget, retain = (t.to(backend.device) for t in case(20_000))
    alphas = torch.linspace(0.2, 5.0, 40, device=backend.device)
    with backend.use():
        rows = ops.dampen_many(weights, forget, retain, alphas, 0.5)
    changed = rows.view(torch.int32) != weights.view(torch.int32)  # [K, n]
    assert (changed[:-1] | ~changed[1:]).all()
