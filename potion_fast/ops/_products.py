"""Checks and launch arguments that `accumulate_linear` and `accumulate_conv` share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ImportanceError
from ._checks import check_memory, shape_or_layout


def check_product(
    op: str, sums: Tensor, inputs: Tensor, gradients: Tensor, terms: int, weights: Tensor | None, bias: Tensor | None
) -> None:
    """Check dtypes, devices, and the shapes of `weights` and `bias`.

    Args:
        op: The operation, for the message.
        sums: [K, O, ...] float32 or float64.
        inputs: Inputs of the layer, floating.
        gradients: Gradients at its output, of the dtype of the inputs.
        terms: N, over which the sums run.
        weights: [K, N] of the dtype of the sums, or None.
        bias: [K, O] of the dtype of the sums, or None.

    Raises:
        ImportanceError: A tensor does not fit.
    """
    if sums.dtype not in (torch.float32, torch.float64):
        raise ImportanceError(f"{op}: sums is {sums.dtype}; use torch.float32 or torch.float64.")
    if not inputs.is_floating_point() or inputs.dtype != gradients.dtype:
        raise ImportanceError(
            f"{op}: inputs is {inputs.dtype}, gradients {gradients.dtype}; they must be floating and alike."
        )
    wanted = {"weights": (weights, (sums.shape[0], terms)), "bias": (bias, tuple(sums.shape[:2]))}
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and (tensor.dtype != sums.dtype or tuple(tensor.shape) != shape):
            raise ImportanceError(
                f"{op}: {name} is {tensor.dtype}, {shape_or_layout(tensor)}; pass {sums.dtype} of shape {list(shape)}."
            )
    for name, tensor in {"inputs": inputs, "gradients": gradients, "weights": weights, "bias": bias}.items():
        if tensor is not None and tensor.device != sums.device:
            raise ImportanceError(f"{op}: {name} is on {tensor.device}, sums on {sums.device}; move one.")
        if tensor is not None and tensor.layout != torch.strided:
            raise ImportanceError(f"{op}: {name} is {shape_or_layout(tensor)}; convert it with to_dense().")


def check_product_memory(
    op: str, sums: Tensor, inputs: Tensor, gradients: Tensor, weights: Tensor | None, bias: Tensor | None
) -> None:
    """Check that `sums` and `bias` may be written in place.

    Both are slices of one flat buffer [K, n], contiguous for each k; that they interleave is no harm.

    Raises:
        ImportanceError: They may not.
    """
    read = [("inputs", inputs), ("gradients", gradients)]
    if weights is not None:
        read.append(("weights", weights))
    for name, written in (("sums", sums), ("bias", bias)):
        if written is not None:
            for part in written:
                check_memory(op, name, part, read)


def mark_written(*tensors: Tensor | None) -> None:
    """Tell autograd that these were written in place."""
    for tensor in tensors:
        if tensor is not None:
            torch.autograd.graph.increment_version(tensor)


def total_addresses(
    sums: Tensor, weights: Tensor | None, bias: Tensor | None, square: bool
) -> tuple[list[int], list[int], int, bool]:
    """The first arguments of both C++ kernels.

    Returns:
        Addresses of the K sums, of the K biases (or none), of the weights (or 0), and `square`.
    """
    sum_addresses = [part.data_ptr() for part in sums]
    bias_addresses = [] if bias is None else [part.data_ptr() for part in bias]
    return sum_addresses, bias_addresses, 0 if weights is None else weights.data_ptr(), square
