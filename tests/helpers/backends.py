"""Helpers of the kernel tests and benchmarks: choosing a backend, guarded buffers, comparison of bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from potion_fast import ops

SIZES = (0, 1, 7, 8, 9, 31, 32, 33, 1023, 100_003)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 1.1754944e-38, 1e-20, 3e38, -3e38, np.inf, -np.inf, np.nan)
_GUARD = 64  # elements


@dataclass(frozen=True)
class Backend:
    name: str
    device: str

    @contextmanager
    def use(self) -> Iterator[None]:
        """Force this backend; NumPy's warnings are off because Triton's interpreter computes with NumPy."""
        before = os.environ.get("POTION_FAST_BACKEND")
        os.environ["POTION_FAST_BACKEND"] = self.name
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            if before is None:
                del os.environ["POTION_FAST_BACKEND"]
            else:
                os.environ["POTION_FAST_BACKEND"] = before


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise tests that take `backend` over every backend, skipping with a reason those that cannot run here."""
    if "backend" in metafunc.fixturenames:
        gpu = torch.cuda.is_available()
        triton = Backend("triton", "cuda" if gpu else "cpu")
        backends = [Backend("reference", "cpu"), Backend("cpu", "cpu"), Backend("cuda", "cuda"), triton]
        if gpu:
            backends.append(Backend("reference", "cuda"))
        ids = [f"{b.name}-{b.device}" for b in backends]
        metafunc.parametrize("backend", [pytest.param(b, marks=_skip(b, gpu)) for b in backends], ids=ids)


def _skip(backend: Backend, gpu: bool) -> list[pytest.MarkDecorator]:
    if backend.name == "cuda" and not (gpu and ops.native is not None and ops.native.cuda):
        return [pytest.mark.skip(reason="needs a CUDA GPU and a build with nvcc")]
    problem = ops.missing(backend.name, torch.device(backend.device))
    return [pytest.mark.skip(reason=problem)] if problem else []


def opcheck(backend: Backend, op: str, *arguments: object) -> None:
    """PyTorch's own checks of an operation: schema, fake tensors, what is written, autograd."""
    with backend.use():
        torch.library.opcheck(getattr(torch.ops.potion_fast, op).default, arguments)


class Guarded:
    """A buffer between two runs of NaN, at an address that is a multiple of the element size and of no more."""

    def __init__(self, values: Tensor, device: str, shift: int = 1) -> None:
        n = values.numel()
        self.memory = torch.full((n + 2 * _GUARD,), torch.nan, dtype=values.dtype, device=device)
        self.inside = self.memory[_GUARD + shift : _GUARD + shift + n]  # [n]
        self.inside.copy_(values)

    def assert_guards_intact(self) -> None:
        outside = self.memory.clone()
        start = self.inside.storage_offset()
        outside[start : start + self.inside.numel()] = torch.nan
        assert outside.isnan().all(), "an element outside the buffer was written"


def bits(tensor: Tensor) -> Tensor:
    """The bit patterns, with every NaN replaced by one: its sign and payload depend on the hardware."""
    tensor = torch.where(tensor.isnan(), torch.nan, tensor)
    return tensor.cpu().contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int64)


def assert_same_bits(got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape
    different = (bits(got) != bits(want)).nonzero().flatten()
    assert different.numel() == 0, (
        f"{different.numel()} of {got.numel()} elements differ, first at {different[:5].tolist()}: "
        f"{got.cpu()[different[:5]].tolist()} instead of {want.cpu()[different[:5]].tolist()}"
    )


def numbers(n: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n] normal deviates over many orders of magnitude, a third of them special values."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(n) * 10.0 ** random.integers(-30, 30, n)
    special = random.random(n) < 0.33
    values[special] = random.choice(np.array(SPECIAL), special.sum())
    return torch.from_numpy(values).to(dtype)
