"""Forget and retain importances for the tests of thresholds, groups and edits, and variants of their kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.backends import assert_same_bits, numbers
from potion_fast import ops

Groups = tuple[Tensor, Tensor, Tensor, Tensor]  # as `partition` returns them
KINDS = ("any", "lognormal", "ties", "sparse", "zero retain", "subnormal", "constant", "rising")


def importances(kind: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Forget and retain [n], not negative, of a kind of data that some part of a kernel may get wrong."""
    random = np.random.default_rng(seed)
    forget, retain = np.exp(2 * random.standard_normal((2, n)))
    if kind == "any":  # over many orders of magnitude, a third of them zeros, subnormal, infinite or NaN
        return numbers(n, seed).abs(), numbers(n, seed + 1).abs()
    if kind == "lognormal":  # 1 % 0/0, 0.1 % x/0
        luck = random.random(n)
        forget[luck < 0.01], retain[luck < 0.011] = 0, 0
    elif kind == "ties":
        forget, retain = random.integers(0, 4, n), random.integers(0, 3, n)
    elif kind == "sparse":  # most percentiles are 0
        forget[random.random(n) < 0.97] = 0
    elif kind == "zero retain":
        retain[random.random(n) < 0.4] = 0
    elif kind == "subnormal":  # quotients and products far from exact
        forget, retain = random.integers(0, 2000, n) * 1e-45, random.choice([1e-45, 1e-40, 3.0, 7.0], n)
    elif kind == "constant":
        forget, retain = np.full(n, 3.0), np.full(n, 1.5)
    elif kind == "rising":  # all that is wanted lies in the last block
        forget, retain = np.sort(forget), np.ones(n)
    return torch.from_numpy(forget).float(), torch.from_numpy(retain).float()


@contextmanager
def limited(instructions: str) -> Iterator[None]:
    """The C++ kernels with these instructions; skips where the machine or the build lacks them."""
    if ops.native is None:
        pytest.skip(ops.native_problem)
    ops.native.limit_select_instructions(instructions)
    try:
        if ops.native.select_instructions() != instructions:
            pytest.skip(f"this machine has no {instructions}")
        yield
    finally:
        ops.native.limit_select_instructions("")


@contextmanager
def poisoned() -> Iterator[None]:
    """Within the block, allocated memory holds NaN or the largest integer until it is written."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def public_edit(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float) -> None:
    """One edit in place (eq. 1, λ = 1), as the public code does it: masks, then indexed multiplication."""
    selected = torch.where(forget > retain * alpha)
    factor = (retain / forget)[selected]
    factor[torch.where(factor > 1)] = 1
    weights[selected] = weights[selected].mul(factor)


def publicly_dampened(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> Tensor:
    """Select, then multiply, as the public code has it, in NumPy."""
    theta, f, r = weights.numpy().copy(), forget.numpy(), retain.numpy()
    with np.errstate(all="ignore"):
        locations = f > np.float32(alpha) * r
        update = (np.float32(dampening) * r) / f
        update[update > 1] = 1
        theta[locations] *= update[locations]
    return torch.from_numpy(theta)


def dampening_case(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, forget, retain: means over many orders of magnitude, with zeros, ties and values that are not finite."""
    forget, retain = numbers(n, 1).abs(), numbers(n, 2).abs()
    retain[::3] = forget[::3] * torch.from_numpy(np.random.default_rng(3).uniform(0.2, 5, len(forget[::3]))).float()
    retain[::11] = forget[::11]
    return numbers(n, 4), forget, retain


def groups_by_definition(forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Groups:
    """In NumPy, candidate by candidate, for importances that are not negative."""
    f, r = forget.numpy(), retain.numpy()
    falling = alphas.sort(descending=True, stable=True).values.numpy()
    with np.errstate(all="ignore"):
        changed = (np.float32(dampening) * r) / f < 1
        selected = f > falling[:, None] * r  # [K, n]
    first = np.where(changed & selected.any(0), selected.argmax(0), len(falling)) if len(falling) else np.zeros(len(f))
    index = np.argsort(first, kind="stable")
    starts = np.searchsorted(first[index], np.arange(len(falling) + 1))
    index = torch.from_numpy(index[: starts[-1]])
    return index.int(), forget[index], retain[index], torch.from_numpy(starts)


def assert_same_groups(got: Groups, want: Groups) -> None:
    for tensor, wanted in zip(got, want, strict=True):
        assert tensor.dtype == wanted.dtype
        if tensor.dtype == torch.float32:
            assert_same_bits(tensor, wanted)
        else:
            assert torch.equal(tensor.cpu(), wanted.cpu())
