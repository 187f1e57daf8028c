"""dampen_many: every kernel gives the rows that dampen gives once per threshold."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from helpers.backends import SIZES, Backend, Guarded, assert_same_bits, numbers, opcheck
from helpers.products import threads
from helpers.ratios import dampening_case, poisoned, publicly_dampened
from potion_fast import ops
from potion_fast.ops import KERNELS, reference

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("n", [0, 1, 1023])
@pytest.mark.parametrize("alphas", [[], [0.5], [8.0, 2.0, 0.5, NAN]])
def test_dampen_many_is_dampen_once_per_alpha(backend: Backend, n: int, alphas: list[float]) -> None:
    weights, forget, retain = (t.to(backend.device) for t in dampening_case(n))
    before = weights.clone()
    with backend.use():
        got = ops.dampen_many(weights, forget, retain, torch.tensor(alphas, device=backend.device), 0.8)
    assert_same_bits(weights, before)
    assert got.shape == (len(alphas), n)
    for row, alpha in zip(got, alphas, strict=True):
        assert_same_bits(row, publicly_dampened(before.cpu(), forget.cpu(), retain.cpu(), alpha, 0.8))


def test_dampen_many_on_large_buffers_any_strides_and_threads(backend: Backend) -> None:
    weights, forget, retain = dampening_case(300_001)
    alphas = torch.tensor([3.0, 0.7, NAN, 40.0, 1.1])
    want = torch.stack([publicly_dampened(weights, forget, retain, alpha, 1.0) for alpha in alphas.tolist()])
    on_device = [t.to(backend.device) for t in (weights, forget, retain, alphas)]
    for number in (1, 2, 3) if backend.name == "cpu" else (1,):
        with backend.use(), threads(number), poisoned():
            assert_same_bits(ops.dampen_many(*on_device), want)
    with backend.use():
        strided = ops.dampen_many(*(t[1::2] for t in on_device[:3]), on_device[3][::2])
    for row, alpha in zip(strided, alphas[::2].tolist(), strict=True):
        assert_same_bits(row, publicly_dampened(weights[1::2], forget[1::2], retain[1::2], alpha, 1.0))


def test_selected_sets_are_nested_in_alpha(backend: Backend) -> None:
    weights, forget, retain = (t.to(backend.device) for t in dampening_case(20_000))
    alphas = torch.linspace(0.2, 5.0, 40, device=backend.device)
    with backend.use():
        rows = ops.dampen_many(weights, forget, retain, alphas, 0.5)
    changed = rows.view(torch.int32) != weights.view(torch.int32)  # [K, n]
    assert (changed[:-1] | ~changed[1:]).all()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("alphas", [[], [0.7], [0.7, NAN, INF, 0.0, 3.0, 1e-30, -1.0, -INF]])
def test_the_cuda_kernel_on_the_host(cuda_on_cpu: ModuleType, n: int, alphas: list[float]) -> None:
    weights, forget, retain = numbers(n, 1), numbers(n, 2).abs(), numbers(n, 3).abs()
    forget, retain = (Guarded(tensor, "cpu", shift).inside for tensor, shift in ((forget, 2), (retain, 3)))
    got = KERNELS["dampen_many"]["cuda"](weights, forget, retain, torch.tensor(alphas), 1.3)
    assert_same_bits(got, reference.dampen_many(weights, forget, retain, torch.tensor(alphas), 1.3))


def test_opcheck(backend: Backend) -> None:
    weights, forget, retain, alphas = (torch.rand(n, device=backend.device) for n in (33, 33, 33, 4))
    opcheck(backend, "dampen_many", weights, forget, retain, alphas, 1.0)
