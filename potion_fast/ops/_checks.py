"""Checks that several operations share, before a kernel sees the addresses of their arguments.

Those on shapes, dtypes and devices also run while torch.compile traces; those on memory only before a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import ImportanceError


def check_flat(op: str, **tensors: Tensor) -> None:
    """Check that the tensors are flat, float32, of one size and on one device.

    Raises:
        ImportanceError: A tensor differs; the message begins with `op` and names it.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ImportanceError(f"{op}: {name} is {tensor.dtype}; convert it to torch.float32.")
        if tensor.dim() != 1 or tensor.layout != torch.strided:
            raise ImportanceError(f"{op}: {name} is {shape_or_layout(tensor)}; pass a flat, dense tensor.")
        if tensor.device != first.device:
            raise ImportanceError(f"{op}: {first_name} is on {first.device}, {name} on {tensor.device}; move one.")
        if tensor.numel() != first.numel():
            raise ImportanceError(
                f"{op}: {first_name} has {first.numel()} elements, {name} {tensor.numel()}; they must be equal."
            )


def check_alphas(op: str, alphas: Tensor, device: torch.device) -> None:
    """Check that `alphas` is a flat float32 tensor on `device`.

    Raises:
        ImportanceError: It is not.
    """
    if alphas.dtype != torch.float32 or alphas.dim() != 1 or alphas.device != device:
        raise ImportanceError(
            f"{op}: alphas is {alphas.dtype}, {shape_or_layout(alphas)}, on {alphas.device}; "
            f"pass K flat float32 numbers on {device}."
        )


def check_percentiles(op: str, percentiles: list[float]) -> None:
    """Check that every percentile is in [0, 100].

    Raises:
        ImportanceError: One is not, or is NaN.
    """
    for p in percentiles:
        if not 0 <= p <= 100:
            raise ImportanceError(f"{op}: percentile {p} is not in [0, 100].")


def check_dampening(op: str, dampening: float) -> None:
    """Check that λ is not below 0.

    Raises:
        ImportanceError: It is, or is NaN.
    """
    if not dampening >= 0:
        raise ImportanceError(f"{op}: λ = {dampening} is below 0; pass 0 for all weights that are selected.")


def check_norm_layer(op: str, fits: bool, shapes: str, **tensors: Tensor) -> None:
    """Check tensors of a norm layer: float32 or float64, all alike, dense, on one device, and of shapes that fit.

    Args:
        op: The operation, for the message.
        fits: Whether the shapes fit.
        shapes: The shapes that do, for the message.
        **tensors: The tensors under their names.

    Raises:
        ImportanceError: They do not fit.
    """
    first = next(iter(tensors.values()))
    dtype, device = first.dtype, first.device
    for name, tensor in tensors.items():
        if tensor.dtype != dtype or dtype not in (torch.float32, torch.float64):
            raise ImportanceError(f"{op}: {name} is {tensor.dtype}; pass all in float32 or in float64.")
        if tensor.device != device or tensor.layout != torch.strided:
            raise ImportanceError(f"{op}: {name} is {shape_or_layout(tensor)} on {tensor.device}; pass dense tensors.")
    if not fits:
        *others, last = (f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ImportanceError(f"{op}: {', '.join(others)} and {last} do not fit {shapes}.")


def check_memory(op: str, name: str, written: Tensor, read: Iterable[tuple[str, Tensor]]) -> None:
    """Check that `written` may be written in place: contiguous, not tracked by autograd, apart from all that is read.

    Args:
        op: The operation, for the message.
        name: What the operation calls `written`.
        written: The tensor that a kernel will write.
        read: Name and tensor of what it will read.

    Raises:
        ImportanceError: It may not.
    """
    if not written.is_contiguous():
        raise ImportanceError(f"{op}: {name} is written in place and must be contiguous; its strides are not.")
    if written.requires_grad and torch.is_grad_enabled():
        raise ImportanceError(f"{op}: {name} requires gradients and is written in place; call under torch.no_grad().")
    begin, end = address_range(written)
    for read_name, tensor in read:
        read_begin, read_end = address_range(tensor)
        if begin < read_end and read_begin < end:
            raise ImportanceError(f"{op}: {read_name} shares memory with {name}, which is written; pass a copy.")


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order: contiguous, channels-last, transposed."""
    if tensor.layout != torch.strided:
        return False
    if tensor.is_contiguous() or tensor.numel() == 0:
        return True
    wanted = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != wanted:
                return False
            wanted *= size
    return True


def address_range(tensor: Tensor) -> tuple[int, int]:
    """The addresses [begin, end) between which the elements lie; (0, 0) where there are none."""
    if tensor.numel() == 0:
        return 0, 0
    if tensor.is_contiguous():
        last = tensor.numel() - 1
    else:
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def shape_or_layout(tensor: Tensor) -> str:
    """What a message says of a tensor: its shape, or its layout if it is not strided."""
    return f"of shape {list(tensor.shape)}" if tensor.layout == torch.strided else str(tensor.layout)
