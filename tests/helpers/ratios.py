"""Forget and retain importances for the tests of thresholds, groups and edits, and variants of their kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.backends import numbers
from potion_fast import ops

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
