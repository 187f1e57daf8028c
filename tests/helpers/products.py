"""Helpers of the tests of the two products: sums in one flat buffer, and the error that a result may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from helpers.backends import Backend, Guarded
from potion_fast import ops

INSTRUCTIONS = ("AVX-512", "AVX2", "baseline")


class Sums:
    """[K, *shape] and [K, O], K = `sets`, as an Importance holds them: slices of flat buffers, with NaN all around."""

    def __init__(self, sets: int, shape: tuple[int, ...], dtype: torch.dtype, device: str, bias: bool) -> None:
        size, gap = torch.Size(shape).numel(), 3
        values = torch.full((sets, size + shape[0] + 3 * gap), torch.nan, dtype=dtype)
        self.guarded = Guarded(values.reshape(-1), device)
        flat = self.guarded.inside.view(sets, -1)
        self.weight = flat[:, gap : gap + size].unflatten(1, shape)  # [K, *shape]
        self.bias = flat[:, 2 * gap + size : 2 * gap + size + shape[0]] if bias else None  # [K, O]
        self.outside = torch.ones(flat.shape, dtype=torch.bool, device=device)
        self.outside[:, gap : gap + size] = False
        self.weight.fill_(0.25)  # what was there before stays part of the sum
        if self.bias is not None:
            self.outside[:, 2 * gap + size : 2 * gap + size + shape[0]] = False
            self.bias.fill_(0.5)

    def assert_nothing_else_was_written(self) -> None:
        self.guarded.assert_guards_intact()
        flat = self.guarded.inside.view(self.outside.shape)
        assert flat[self.outside].isnan().all(), "an element between the sums was written"

    def added(self) -> tuple[Tensor, Tensor | None]:
        """What was added, in float64 on the CPU."""
        weight = self.weight.double().cpu() - 0.25
        return weight, None if self.bias is None else self.bias.double().cpu() - 0.5


def assert_near(got: Tensor, want: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    """At most twice as far from the float64 result as plain PyTorch is that computes in `dtype`.

    The float64 result is PyTorch's own, which makes its error zero there: a float64 result may be off in its last bits.
    """
    assert got.shape == want.shape
    if got.numel() == 0:
        return
    error, allowed = (got - want).norm(), 2 * (plain.double() - want).norm()
    # Chance evens out over the many numbers of a set; the sets weigh the same gradients, with the same errors.
    last_bits = 32 if dtype == torch.float64 else 1 + 8 / got[0].numel() ** 0.5
    rounding = last_bits * torch.finfo(dtype).eps * (want.norm() + got.numel() ** 0.5)  # 0.25 or 0.5 was added, too
    assert error <= allowed + rounding, f"error {error:.3g}, of PyTorch {allowed / 2:.3g}, rounding {rounding:.3g}"


def summed(per_term: Tensor, square: bool, weights: Tensor | None, sets: int) -> Tensor:
    """[K, ...]: Σ_n w[k,n] · |g_n|, or its square, of gradients [N, ...]."""
    size = per_term.square() if square else per_term.abs()
    if weights is None:
        return size.sum(0).expand(sets, *size.shape[1:])
    return torch.einsum("kn,n...->k...", weights.to(size.dtype), size)


def examples(backend: Backend, number: int) -> settings:
    """The number of examples of a property, reduced in Triton's interpreter, which is slow."""
    interpreted = backend.name == "triton" and backend.device == "cpu"
    return settings(max_examples=number // 10 if interpreted else number, deadline=None)


@contextmanager
def limited(instructions: str) -> Iterator[None]:
    """The C++ kernels with these instructions; skips where the machine or the build lacks them."""
    if ops.native is None:
        pytest.skip(ops.native_problem)
    ops.native.limit_product_instructions(instructions)
    try:
        if ops.native.product_instructions() != instructions:
            pytest.skip(f"this machine has no {instructions}")
        yield
    finally:
        ops.native.limit_product_instructions("")


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bits_on_threads(call: Callable[[Tensor], None], shape: tuple[int, ...]) -> list[Tensor]:
    """The sums that `call` makes on 1, 2 and 5 threads."""
    results = []
    for number in (1, 2, 5):
        sums = torch.zeros(shape)
        with threads(number), Backend("cpu", "cpu").use():
            call(sums)
        results.append(sums)
    return results
