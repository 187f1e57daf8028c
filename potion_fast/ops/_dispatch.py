"""The choice of the kernel that runs an operation, and the registration of operations with PyTorch.

A CUDA tensor goes to the compiled CUDA kernel, else to Triton, else to the reference; a CPU tensor to C++, else to the
reference. The environment variable POTION_FAST_BACKEND (reference, cpu, cuda or triton) overrides the choice for the
operations that have such a kernel, and raises BackendError where the build or the device lacks it. It is read at every
call.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sysconfig
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..errors import BackendError
from .native import native, native_problem

BACKENDS = ("reference", "cpu", "cuda", "triton")
KERNELS: dict[str, dict[str, Callable[..., Any]]] = {}  # operation → backend → kernel
_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_library = torch.library.Library("potion_fast", "DEF")


def register(
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    reference: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    cuda: Callable[..., Any] | None = None,
    triton: Callable[..., Any] | None = None,
) -> None:
    """Define `torch.ops.potion_fast.<op>` and the kernels that it chooses from.

    Args:
        schema: Name, arguments and results in PyTorch's schema language; what is written in place is marked.
        implementation: Checks its arguments and calls the kernel that `kernel_for` chooses.
        fake: The same checks without those on memory, and results without data: for torch.compile.
        reference: The definition in plain PyTorch, which runs everywhere.
        cpu: Launch of the C++ kernel, if there is one.
        cuda: Launch of the CUDA kernel, if there is one.
        triton: Launch of the Triton kernel, if there is one; it imports Triton when it is called.
    """
    op = schema.partition("(")[0]
    launches = {"reference": reference, "cpu": cpu, "cuda": cuda, "triton": triton}
    KERNELS[op] = {backend: launch for backend, launch in launches.items() if launch is not None}
    _library.define(schema)
    _library.impl(op, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"potion_fast::{op}", fake, lib=_library)


class Choice(NamedTuple):
    """The backend that runs an operation on a device.

    Attributes:
        backend: One of `BACKENDS`.
        reason: Why it is that one.
    """

    backend: str
    reason: str


def kernel_for(op: str, device: torch.device) -> Callable[..., Any]:
    """The kernel that a call of `op` on `device` uses now."""
    return KERNELS[op][chosen(op, device).backend]


def chosen(op: str, device: torch.device | str) -> Choice:
    """The backend that a call of `op` on `device` uses now.

    Raises:
        BackendError: POTION_FAST_BACKEND asks for a backend that is unknown or not there.
    """
    device = torch.device(device)
    asked = os.environ.get("POTION_FAST_BACKEND", "")
    if asked and asked not in BACKENDS:
        raise BackendError(f"POTION_FAST_BACKEND={asked} is unknown; it can be {', '.join(BACKENDS)}.")
    if asked and asked in KERNELS[op]:
        if problem := missing(asked, device):
            raise BackendError(f"POTION_FAST_BACKEND={asked} cannot run {op} on {device}: {problem}.")
        return Choice(asked, "POTION_FAST_BACKEND asks for it")
    passed_over: list[str] = []
    for backend in _PREFERENCE.get(device.type, ("reference",)):
        if backend not in KERNELS[op]:
            continue
        problem = missing(backend, device)
        if not problem:
            return Choice(backend, "; ".join(passed_over) or _default_reason(op, backend, device))
        passed_over.append(f"no {backend}: {problem}")
    raise AssertionError("the reference runs everywhere")


def _default_reason(op: str, backend: str, device: torch.device) -> str:
    if backend != "reference":
        return f"first choice on {device.type}"
    return f"{op} has no other kernel" if set(KERNELS[op]) == {"reference"} else f"no kernel for {device.type}"


@functools.cache
def missing(backend: str, device: torch.device) -> str:
    """Why `backend` cannot run on `device`; empty if it can. Found out once per process."""
    if backend == "cpu":
        if device.type != "cpu":
            return "the C++ kernels take CPU tensors"
        return native_problem
    if backend == "cuda":
        if device.type != "cuda":
            return "the CUDA kernels take CUDA tensors"
        if native is None:
            return native_problem
        if not native.cuda:
            return "this build has no CUDA kernels, because the installation found no working nvcc"
        with torch.cuda.device(device):
            return native.cuda_problem()
    if backend == "triton":
        return _triton_missing(device)
    return ""


def _triton_missing(device: torch.device) -> str:
    try:
        importlib.import_module("triton")
        kernels = importlib.import_module("potion_fast.kernels")
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if kernels.interpreted():
        if problem := kernels.interpreter_problem():
            return str(problem)
        return "" if device.type in ("cpu", "cuda") else "Triton's interpreter takes CPU and CUDA tensors"
    if device.type == "cpu":
        return "Triton runs CPU tensors only in its interpreter: set TRITON_INTERPRET=1 before Python starts"
    if device.type != "cuda":
        return "the Triton kernels take CUDA tensors"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "Triton needs a GPU of compute capability 8.0 or newer"
    # Triton compiles a small C module for every kernel that it launches.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs gcc or clang on the path, or CC set"
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        return "Triton needs the headers of Python (python3-dev)"
    return ""


def current_stream(device: torch.device) -> int:
    """The address of PyTorch's current CUDA stream on `device`, for a launch."""
    return torch.cuda.current_stream(device).cuda_stream
