"""The operations `take` and `put`: weights at given indices of a flat buffer that is spread over parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import ImportanceError
from . import reference
from ._checks import address_range, is_dense, shape_or_layout
from ._dispatch import current_stream, kernel_for, register
from .native import native


def take(parameters: Sequence[Tensor], offsets: Sequence[int], cuts: Sequence[int], index: Tensor) -> Tensor:
    """Read the weights at some indices of a flat buffer that is spread over parameters.

    Args:
        parameters: P float32 tensors without gaps in their memory: contiguous, channels-last, transposed.
        offsets: [P], where each begins in the flat buffer, which has its elements in the order of its memory.
        cuts: [P + 1]; index[cuts[p] : cuts[p + 1]] lies in parameter p.
        index: [m] int32 or int64, on the parameters' device.

    Returns:
        [m] float32.

    Raises:
        ImportanceError: The tensors do not fit together; on the CPU also an index outside its parameter.
    """
    return torch.ops.potion_fast.take(list(parameters), list(offsets), list(cuts), index)


def put(
    parameters: Sequence[Tensor], offsets: Sequence[int], cuts: Sequence[int], index: Tensor, values: Tensor
) -> None:
    """Set the weights at those indices, in place.

    Args:
        parameters: As for `take`.
        offsets: As for `take`.
        cuts: As for `take`.
        index: As for `take`; each number occurs once.
        values: [m] float32.

    Raises:
        ImportanceError: The tensors do not fit together; on the CPU also an index outside its parameter.
    """
    torch.ops.potion_fast.put(list(parameters), list(offsets), list(cuts), index, values)


def _check(op: str, parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> None:
    if index.dtype not in (torch.int32, torch.int64) or index.dim() != 1:
        raise ImportanceError(
            f"{op}: index is {index.dtype}, {shape_or_layout(index)}; pass m flat int32 or int64 numbers."
        )
    if len(offsets) != len(parameters) or len(cuts) != len(parameters) + 1:
        raise ImportanceError(
            f"{op}: {len(parameters)} parameters, {len(offsets)} offsets and {len(cuts)} cuts; pass P, P and P + 1."
        )
    if cuts[0] != 0 or cuts[-1] != index.numel() or any(a > b for a, b in pairwise(cuts)):
        raise ImportanceError(f"{op}: the cuts must rise from 0 to {index.numel()}, the number of places.")
    device = index.device
    for p, parameter in enumerate(parameters):
        if parameter.dtype != torch.float32 or parameter.device != device:
            raise ImportanceError(
                f"{op}: parameter {p} is {parameter.dtype} on {parameter.device}; pass float32 on {device}."
            )
        if not parameter.is_contiguous() and not is_dense(parameter):
            raise ImportanceError(f"{op}: parameter {p} has gaps in its memory; pass dense tensors.")


def _check_put(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    _check("put", parameters, offsets, cuts, index)
    if values.dtype != torch.float32 or values.shape != index.shape or values.device != index.device:
        raise ImportanceError(
            f"put: values is {values.dtype}, {shape_or_layout(values)}, on {values.device}; "
            f"pass {index.numel()} flat float32 numbers on {index.device}."
        )


def _check_put_memory(parameters: list[Tensor], index: Tensor, values: Tensor) -> None:
    """The parameters may be written in place. They may be hundreds, so that little is done for each."""
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        raise ImportanceError(
            "put: a parameter requires gradients and is written in place; call under torch.no_grad()."
        )
    for name, read in (("index", index), ("values", values)):
        read_begin, read_end = address_range(read)
        for p, parameter in enumerate(parameters):
            begin = parameter.data_ptr()
            if begin < read_end and read_begin < begin + 4 * parameter.numel():  # dense
                raise ImportanceError(f"put: {name} shares memory with parameter {p}, which is written; pass a copy.")


def _take(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    _check("take", parameters, offsets, cuts, index)
    return kernel_for("take", index.device)(parameters, offsets, cuts, index.contiguous())


def _put(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    _check_put(parameters, offsets, cuts, index, values)
    _check_put_memory(parameters, index, values)
    kernel_for("put", index.device)(parameters, offsets, cuts, index.contiguous(), values.contiguous())
    torch.autograd.graph.increment_version(parameters)


def _fake_take(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    _check("take", parameters, offsets, cuts, index)
    return index.new_empty(index.shape, dtype=torch.float32)


def _take_cpu(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    values = torch.empty(index.shape, dtype=torch.float32)
    _launch_cpu(native.take_cpu, "take", parameters, offsets, cuts, index, values)
    return values


def _put_cpu(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    _launch_cpu(native.put_cpu, "put", parameters, offsets, cuts, index, values)


def _launch_cpu(
    kernel: Any, op: str, parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor
) -> None:
    addresses, sizes = [p.data_ptr() for p in parameters], [p.numel() for p in parameters]
    int64, threads = index.dtype == torch.int64, torch.get_num_threads()
    if not kernel(addresses, sizes, offsets, cuts, index.data_ptr(), int64, values.data_ptr(), threads):
        raise ImportanceError(f"{op}: a place in index lies outside the parameter that the cuts say it is in.")


def _take_cuda(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    values = index.new_empty(index.shape, dtype=torch.float32)
    _launch_cuda(native.take_cuda, parameters, offsets, cuts, index, values)
    return values


def _put_cuda(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    _launch_cuda(native.put_cuda, parameters, offsets, cuts, index, values)


def _launch_cuda(
    kernel: Any, parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor
) -> None:
    addresses, sizes = [p.data_ptr() for p in parameters], [p.numel() for p in parameters]
    int64 = index.dtype == torch.int64
    with torch.cuda.device(index.device):
        stream = current_stream(index.device)
        kernel(addresses, sizes, offsets, cuts, index.data_ptr(), int64, values.data_ptr(), stream)


register(
    "take(Tensor[] parameters, int[] offsets, int[] cuts, Tensor index) -> Tensor",
    _take,
    _fake_take,
    reference=reference.take,
    cpu=_take_cpu,
    cuda=_take_cuda,
)
register(
    "put(Tensor(a!)[] parameters, int[] offsets, int[] cuts, Tensor index, Tensor values) -> ()",
    _put,
    fake=_check_put,
    reference=reference.put,
    cpu=_put_cpu,
    cuda=_put_cuda,
)
