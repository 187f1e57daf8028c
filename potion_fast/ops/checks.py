"""What the arguments of each operation must be, before a kernel sees their addresses.

Those on shapes, dtypes and devices also run while torch.compile traces; those on memory only before a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import ImportanceError


def check_flat(op: str, **tensors: Tensor) -> None:
    """Flat float32 tensors of one size on one device."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ImportanceError(f"{op}: {name} is {tensor.dtype}; convert it to torch.float32.")
        if tensor.dim() != 1 or tensor.layout != torch.strided:
            raise ImportanceError(f"{op}: {name} is {_kind(tensor)}; pass a flat, dense tensor.")
        if tensor.device != first.device:
            raise ImportanceError(f"{op}: {first_name} is on {first.device}, {name} on {tensor.device}; move one.")
        if tensor.numel() != first.numel():
            raise ImportanceError(
                f"{op}: {first_name} has {first.numel()} elements, {name} {tensor.numel()}; they must be equal."
            )


def check_accumulate(sums: Tensor, gradients: list[Tensor]) -> None:
    if sums.dtype not in (torch.float32, torch.float64):
        raise ImportanceError(f"accumulate: sums is {sums.dtype}; use torch.float32 or torch.float64.")
    if sums.dim() != 1 or sums.layout != torch.strided:
        raise ImportanceError(f"accumulate: sums is {_kind(sums)}; pass a flat, dense tensor.")
    for i, gradient in enumerate(gradients):
        if gradient.dtype != sums.dtype:
            raise ImportanceError(f"accumulate: gradient {i} is {gradient.dtype}, sums {sums.dtype}; convert one.")
        if gradient.device != sums.device:
            raise ImportanceError(f"accumulate: gradient {i} is on {gradient.device}, sums on {sums.device}; move one.")
        if gradient.layout != torch.strided:
            raise ImportanceError(f"accumulate: gradient {i} is {_kind(gradient)}; convert it with to_dense().")
    total = sum(gradient.numel() for gradient in gradients)
    if total != sums.numel():
        raise ImportanceError(
            f"accumulate: sums has {sums.numel()} elements, the gradients {total}; pass one gradient per parameter."
        )


def check_product(
    op: str, sums: Tensor, inputs: Tensor, gradients: Tensor, terms: int, weights: Tensor | None, bias: Tensor | None
) -> None:
    """What both products share: dtypes, devices, and the shapes of `weights` and `bias`."""
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
                f"{op}: {name} is {tensor.dtype}, {_kind(tensor)}; pass {sums.dtype} of shape {list(shape)}."
            )
    for name, tensor in {"inputs": inputs, "gradients": gradients, "weights": weights, "bias": bias}.items():
        if tensor is not None and tensor.device != sums.device:
            raise ImportanceError(f"{op}: {name} is on {tensor.device}, sums on {sums.device}; move one.")
        if tensor is not None and tensor.layout != torch.strided:
            raise ImportanceError(f"{op}: {name} is {_kind(tensor)}; convert it with to_dense().")


def check_linear(sums: Tensor, inputs: Tensor, gradients: Tensor, weights: Tensor | None, bias: Tensor | None) -> None:
    shapes = [list(t.shape) for t in (sums, inputs, gradients)]
    if not (sums.dim() == inputs.dim() == gradients.dim() == 3) or [*shapes[0][1:], *shapes[1][:2]] != [
        gradients.shape[2],
        inputs.shape[2],
        *gradients.shape[:2],
    ]:
        raise ImportanceError(
            f"accumulate_linear: sums {shapes[0]}, inputs {shapes[1]} and gradients {shapes[2]} "
            "do not fit [K, O, I], [N, T, I] and [N, T, O]."
        )
    check_product("accumulate_linear", sums, inputs, gradients, inputs.shape[0], weights, bias)


def check_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    op, spatial = "accumulate_conv", sums.dim() - 3
    if not 1 <= spatial <= 3 or not (inputs.dim() == gradients.dim() == spatial + 2):
        raise ImportanceError(
            f"{op}: sums {list(sums.shape)}, inputs {list(inputs.shape)} and gradients {list(gradients.shape)} do not "
            "fit [K, O, C / groups, *kernel], [B, C, *spatial] and [B, O, *output] of one to three spatial dimensions."
        )
    geometry = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    for name, (values, least) in geometry.items():
        if len(values) != spatial or min(values) < least:
            raise ImportanceError(f"{op}: {name} {values} must be {spatial} numbers of at least {least}.")
    outputs = [
        (size + 2 * pad - step * (taps - 1) - 1) // jump + 1
        for size, taps, jump, pad, step in zip(inputs.shape[2:], sums.shape[3:], stride, padding, dilation, strict=True)
    ]
    batch, channels = inputs.shape[:2]
    if samples < 1 or groups < 1 or batch % samples or sums.shape[1] % groups:
        raise ImportanceError(
            f"{op}: {batch} samples and {sums.shape[1]} outputs do not divide by {samples}, {groups}."
        )
    if channels != groups * sums.shape[2] or list(gradients.shape) != [batch, sums.shape[1], *outputs]:
        raise ImportanceError(
            f"{op}: inputs {list(inputs.shape)} and gradients {list(gradients.shape)} do not fit sums "
            f"{list(sums.shape)} with {groups} groups; the gradients should be {[batch, sums.shape[1], *outputs]}."
        )
    check_product(op, sums, inputs, gradients, batch // samples, weights, bias)


def check_channels(inputs: Tensor, gradients: Tensor, mean: Tensor) -> None:
    for name, tensor in {"inputs": inputs, "gradients": gradients, "mean": mean}.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != inputs.dtype:
            raise ImportanceError(f"channel_sums: {name} is {tensor.dtype}; pass all in float32 or in float64.")
        if tensor.device != inputs.device or tensor.layout != torch.strided:
            raise ImportanceError(f"channel_sums: {name} is {_kind(tensor)} on {tensor.device}; pass dense tensors.")
    if inputs.dim() < 2 or gradients.shape != inputs.shape or list(mean.shape) != [inputs.shape[1]]:
        raise ImportanceError(
            f"channel_sums: inputs {list(inputs.shape)}, gradients {list(gradients.shape)} and mean "
            f"{list(mean.shape)} do not fit [B, C, *positions] twice and [C]."
        )


def check_rows(inputs: Tensor, gradients: Tensor) -> None:
    for name, tensor in {"inputs": inputs, "gradients": gradients}.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != inputs.dtype:
            raise ImportanceError(f"row_sums: {name} is {tensor.dtype}; pass both in float32 or in float64.")
        if tensor.device != inputs.device or tensor.layout != torch.strided:
            raise ImportanceError(f"row_sums: {name} is {_kind(tensor)} on {tensor.device}; pass dense tensors.")
    if inputs.dim() != 3 or gradients.shape != inputs.shape:
        raise ImportanceError(
            f"row_sums: inputs {list(inputs.shape)} and gradients {list(gradients.shape)} do not fit [N, T, d] twice."
        )


def check_alphas(op: str, alphas: Tensor, device: torch.device) -> None:
    if alphas.dtype != torch.float32 or alphas.dim() != 1 or alphas.device != device:
        raise ImportanceError(
            f"{op}: alphas is {alphas.dtype}, {_kind(alphas)}, on {alphas.device}; "
            f"pass K flat float32 numbers on {device}."
        )


def check_percentiles(op: str, percentiles: list[float]) -> None:
    for p in percentiles:
        if not 0 <= p <= 100:
            raise ImportanceError(f"{op}: percentile {p} is not in [0, 100].")


def check_dampening(op: str, dampening: float) -> None:
    if not dampening >= 0:
        raise ImportanceError(f"{op}: λ = {dampening} is below 0; pass 0 for all weights that are selected.")


def check_places(op: str, parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> None:
    if index.dtype not in (torch.int32, torch.int64) or index.dim() != 1:
        raise ImportanceError(f"{op}: index is {index.dtype}, {_kind(index)}; pass m flat int32 or int64 numbers.")
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


def check_values(op: str, values: Tensor, index: Tensor) -> None:
    if values.dtype != torch.float32 or values.shape != index.shape or values.device != index.device:
        raise ImportanceError(
            f"{op}: values is {values.dtype}, {_kind(values)}, on {values.device}; "
            f"pass {index.numel()} flat float32 numbers on {index.device}."
        )


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


def _kind(tensor: Tensor) -> str:
    return f"of shape {list(tensor.shape)}" if tensor.layout == torch.strided else str(tensor.layout)


def check_memory(op: str, name: str, written: Tensor, read: Iterable[tuple[str, Tensor]]) -> None:
    """`written` may be written in place: contiguous, not tracked by autograd, apart from all that is read."""
    if not written.is_contiguous():
        raise ImportanceError(f"{op}: {name} is written in place and must be contiguous; its strides are not.")
    if written.requires_grad and torch.is_grad_enabled():
        raise ImportanceError(f"{op}: {name} requires gradients and is written in place; call under torch.no_grad().")
    begin, end = _span(written)
    for read_name, tensor in read:
        read_begin, read_end = _span(tensor)
        if begin < read_end and read_begin < end:
            raise ImportanceError(f"{op}: {read_name} shares memory with {name}, which is written; pass a copy.")


def check_put_memory(parameters: list[Tensor], index: Tensor, values: Tensor) -> None:
    """The parameters may be written in place. They may be hundreds, so that little is done for each."""
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        raise ImportanceError(
            "put: a parameter requires gradients and is written in place; call under torch.no_grad()."
        )
    for name, read in (("index", index), ("values", values)):
        first, last = _span(read)
        for p, parameter in enumerate(parameters):
            begin = parameter.data_ptr()
            if begin < last and first < begin + 4 * parameter.numel():  # dense
                raise ImportanceError(f"put: {name} shares memory with parameter {p}, which is written; pass a copy.")


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses [first, last) between which the elements lie."""
    if tensor.numel() == 0:
        return 0, 0
    if tensor.is_contiguous():
        last = tensor.numel() - 1
    else:
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def check_product_memory(
    op: str, sums: Tensor, inputs: Tensor, gradients: Tensor, weights: Tensor | None, bias: Tensor | None
) -> None:
    """Sums and bias are slices of one flat buffer [K, n], contiguous for each k; that they interleave is no harm."""
    read = [("inputs", inputs), ("gradients", gradients)]
    read += [("weights", weights)] if weights is not None else []
    for name, written in (("sums", sums), ("bias", bias)):
        if written is not None:
            for part in written:
                check_memory(op, name, part, read)
