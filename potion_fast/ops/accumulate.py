"""The operation `accumulate`: sums of |g| or g² over a list of gradients."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ImportanceError
from . import reference
from ._checks import check_memory, shape_or_layout
from ._dispatch import current_stream, kernel_for, register
from .native import native


def accumulate(sums: Tensor, gradients: Sequence[Tensor], square: bool = False) -> None:
    """Add |g|, or g² if `square`, of every gradient to the flat buffer `sums`, in place (eq. 3 and 4; eq. 1).

    Args:
        sums: [n] float32 or float64, contiguous.
        gradients: Tensors of the same dtype and device whose sizes add up to n, in the order of the buffer.
        square: Add squares instead of absolute values.

    Raises:
        ImportanceError: The tensors do not fit together.
        BackendError: POTION_FAST_BACKEND asks for a backend that is not there.
    """
    torch.ops.potion_fast.accumulate(sums, list(gradients), square)


def _check(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    if sums.dtype not in (torch.float32, torch.float64):
        raise ImportanceError(f"accumulate: sums is {sums.dtype}; use torch.float32 or torch.float64.")
    if sums.dim() != 1 or sums.layout != torch.strided:
        raise ImportanceError(f"accumulate: sums is {shape_or_layout(sums)}; pass a flat, dense tensor.")
    for i, gradient in enumerate(gradients):
        if gradient.dtype != sums.dtype:
            raise ImportanceError(f"accumulate: gradient {i} is {gradient.dtype}, sums {sums.dtype}; convert one.")
        if gradient.device != sums.device:
            raise ImportanceError(f"accumulate: gradient {i} is on {gradient.device}, sums on {sums.device}; move one.")
        if gradient.layout != torch.strided:
            raise ImportanceError(
                f"accumulate: gradient {i} is {shape_or_layout(gradient)}; convert it with to_dense()."
            )
    total = sum(gradient.numel() for gradient in gradients)
    if total != sums.numel():
        raise ImportanceError(
            f"accumulate: sums has {sums.numel()} elements, the gradients {total}; pass one gradient per parameter."
        )


def _accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    _check(sums, gradients, square)
    check_memory("accumulate", "sums", sums, ((f"gradient {i}", g) for i, g in enumerate(gradients)))
    kernel_for("accumulate", sums.device)(sums, [g.contiguous() for g in gradients], square)
    torch.autograd.graph.increment_version(sums)


def _cpu(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    addresses, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
    native.accumulate_cpu(
        sums.data_ptr(), addresses, sizes, sums.dtype == torch.float64, square, torch.get_num_threads()
    )


def _cuda(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    addresses, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
    with torch.cuda.device(sums.device):
        stream = current_stream(sums.device)
        native.accumulate_cuda(sums.data_ptr(), addresses, sizes, sums.dtype == torch.float64, square, stream)


def _triton(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    importlib.import_module("potion_fast.kernels.accumulate").accumulate(sums, gradients, square)


register(
    "accumulate(Tensor(a!) sums, Tensor[] gradients, bool square) -> ()",
    _accumulate,
    fake=_check,
    reference=reference.accumulate,
    cpu=_cpu,
    cuda=_cuda,
    triton=_triton,
)
