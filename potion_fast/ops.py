"""Each operation's schema, its checks, and the choice of the kernel that runs it.

`reference.py` defines what every operation computes. The kernels are faster and give the same bits, but for the two
products and `channel_sums`, which add in another order and agree as two matrix products do. A CUDA tensor goes to the
compiled CUDA kernel, else to Triton, else to the reference; a CPU tensor to C++, else to the reference. The environment
variable POTION_FAST_BACKEND (reference, cpu, cuda or triton) overrides the choice for the operations that have such a
kernel, and raises BackendError where the build or the device lacks it. It is read at every call.

Kernels see raw pointers, so everything is checked here first. What is written must be contiguous and must not share
memory with what is read; what is only read may have any strides.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from potion_fast import reference
from potion_fast.errors import BackendError, ImportanceError

BACKENDS = ("reference", "cpu", "cuda", "triton")
_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

native: Any = None  # potion_fast._native, or None where the install had no compiler
native_problem = ""  # why it is None
try:
    native = importlib.import_module("potion_fast._native")
except ModuleNotFoundError:
    native_problem = "the native module was not built: the installation found no C++ compiler"
except ImportError as error:
    native_problem = f"the native module does not load: {error}"
if native is None and os.environ.get("POTION_FAST_REQUIRE_NATIVE") == "1":
    raise BackendError(
        f"POTION_FAST_REQUIRE_NATIVE=1, but {native_problem}. Reinstall potion-fast with a C++ compiler."
    )


# --- The operations -------------------------------------------------------------------------------------------------


def accumulate(sums: Tensor, gradients: Sequence[Tensor], square: bool = False) -> None:
    """Add |g|, or g² if `square`, of every gradient to the flat buffer `sums`, in place.

    sums       [n] float32 or float64, contiguous
    gradients  tensors of the same dtype and device whose sizes add up to n, in the order of the buffer

    Raises ImportanceError for tensors that do not fit together, BackendError for a backend that is not there.
    """
    torch.ops.potion_fast.accumulate(sums, list(gradients), square)


def accumulate_linear(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    square: bool = False,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Add Σ_n w[k,n] · |Σ_t G[n,t,o] · A[n,t,i]|, or its square, to `sums[k,o,i]`, in place.

    That is the importance of the weight of a linear layer, exact per sample, without a gradient per sample.

    sums       [K, O, I] float32 or float64; each [O, I] contiguous
    inputs     [N, T, I], A: what the layer got; T rows for each n
    gradients  [N, T, O], G: the gradient at its output; floating, as the inputs
    weights    [K, N] of the dtype of the sums, or None for ones
    bias       [K, O] of the dtype of the sums gets the same of Σ_t G[n,t,o]; or None

    The CPU kernels compute in the dtype of the sums; on CUDA the inputs' own dtype multiplies and float32 sums up,
    with float32 inputs as torch.get_float32_matmul_precision() says. Raises ImportanceError for tensors that do not
    fit together.
    """
    torch.ops.potion_fast.accumulate_linear(sums, inputs, gradients, square, weights, bias)


def accumulate_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    square: bool = False,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """The same for a convolution of one to three spatial dimensions, zero padding; no columns are stored.

    sums       [K, O, C / groups, *kernel] float32 or float64; each [O, C / groups, *kernel] contiguous
    inputs     [N · samples, C, *spatial]; fastest in channels-last memory
    gradients  [N · samples, O, *output]; the gradient of `samples` samples is summed before |·| is taken
    stride, padding, dilation   one number per spatial dimension
    weights, bias   as for `accumulate_linear`

    Raises ImportanceError for tensors that do not fit together.
    """
    torch.ops.potion_fast.accumulate_conv(
        sums, inputs, gradients, samples, list(stride), list(padding), list(dilation), groups, square, weights, bias
    )


def channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_p g[b,c,p] · (x[b,c,p] − mean[c]) and Σ_p g[b,c,p]: what the scale and the shift of a norm layer get.

    inputs, gradients  [B, C, *positions], x and g, float32 or float64
    mean               [C]
    returns            [B, C] and [B, C]

    Raises ImportanceError for tensors that do not fit together.
    """
    return torch.ops.potion_fast.channel_sums(inputs, gradients, mean)


def select(forget: Tensor, retain: Tensor, percentiles: Sequence[float]) -> Tensor:
    """α_k, the percentile p_k of Ω_f / Ω_r over the elements where the ratio is finite.

    forget, retain  [n] float32, mean importances
    percentiles     K numbers in [0, 100]
    returns         [K] float32; NaN where no ratio is finite

    Raises ImportanceError for tensors that do not fit together or a percentile out of range.
    """
    return torch.ops.potion_fast.select(forget, retain, [float(p) for p in percentiles])


def dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float = 1.0) -> None:
    """θ ← θ · min(λ · Ω_r / Ω_f, 1) wherever Ω_f > α · Ω_r, in place.

    weights           [n] float32, contiguous
    forget, retain    [n] float32, mean importances
    alpha, dampening  α and λ, rounded to float32

    Raises ImportanceError for tensors that do not fit together, BackendError for a backend that is not there.
    """
    torch.ops.potion_fast.dampen(weights, forget, retain, float(alpha), float(dampening))


def dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float = 1.0) -> Tensor:
    """K dampened copies of the weights, one per α; `weights` stay as they are.

    weights, forget, retain  [n] float32
    alphas                   [K] float32
    returns                  [K, n] float32

    Raises ImportanceError for tensors that do not fit together.
    """
    return torch.ops.potion_fast.dampen_many(weights, forget, retain, alphas, float(dampening))


# --- The choice of a backend ----------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """The backend that runs an operation on a device, and why it is that one."""

    backend: str
    reason: str


def chosen(op: str, device: torch.device | str) -> Choice:
    """The backend that a call of `op` on `device` uses now.

    Raises BackendError if POTION_FAST_BACKEND asks for one that is unknown or not there.
    """
    device = torch.device(device)
    asked = os.environ.get("POTION_FAST_BACKEND", "")
    if asked and asked not in BACKENDS:
        raise BackendError(f"POTION_FAST_BACKEND={asked} is unknown; it can be {', '.join(BACKENDS)}.")
    if asked and asked in _KERNELS[op]:
        if problem := missing(asked, device):
            raise BackendError(f"POTION_FAST_BACKEND={asked} cannot run {op} on {device}: {problem}.")
        return Choice(asked, "POTION_FAST_BACKEND asks for it")
    passed_over: list[str] = []
    for backend in _PREFERENCE.get(device.type, ("reference",)):
        if backend not in _KERNELS[op]:
            continue
        problem = missing(backend, device)
        if not problem:
            return Choice(backend, "; ".join(passed_over) or _default_reason(op, backend, device))
        passed_over.append(f"no {backend}: {problem}")
    raise AssertionError("the reference runs everywhere")


def _default_reason(op: str, backend: str, device: torch.device) -> str:
    if backend != "reference":
        return f"first choice on {device.type}"
    return f"{op} has no other kernel" if set(_KERNELS[op]) == {"reference"} else f"no kernel for {device.type}"


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


# --- The kernels ----------------------------------------------------------------------------------------------------


def _accumulate_cpu(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    pointers, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
    native.accumulate_cpu(
        sums.data_ptr(), pointers, sizes, sums.dtype == torch.float64, square, torch.get_num_threads()
    )


def _accumulate_cuda(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    pointers, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
    with torch.cuda.device(sums.device):
        native.accumulate_cuda(sums.data_ptr(), pointers, sizes, sums.dtype == torch.float64, square, _stream(sums))


def _accumulate_triton(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    importlib.import_module("potion_fast.kernels.accumulate").accumulate(sums, gradients, square)


def _accumulate_linear_cpu(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    inputs, gradients = inputs.to(sums.dtype).contiguous(), gradients.to(sums.dtype).contiguous()
    weights = None if weights is None else weights.contiguous()
    native.accumulate_linear_cpu(
        *_totals(sums, weights, bias, square),
        inputs.data_ptr(),
        gradients.data_ptr(),
        *inputs.shape[:2],
        *sums.shape[1:],
        sums.dtype == torch.float64,
        torch.get_num_threads(),
    )


def _accumulate_rows(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    """T = 1 on any device: |g · a| = |g| · |a|, so one ordinary matrix product is the sum over all terms."""
    size = torch.square if square else torch.abs
    a, g = (size(t.squeeze(1).to(sums.dtype)) for t in (inputs, gradients))  # [N, I], [N, O]
    for k, total in enumerate(sums):
        weighted = g if weights is None else weights[k, :, None] * g
        total.addmm_(weighted.T, a)
        if bias is not None:
            bias[k] += weighted.sum(0)


def _accumulate_conv_cpu(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    inputs, gradients = _channels_last(inputs, sums.dtype), _channels_last(gradients, sums.dtype)
    weights = None if weights is None else weights.contiguous()
    native.accumulate_conv_cpu(
        *_totals(sums, weights, bias, square),
        inputs.data_ptr(),  # [N · samples, *spatial, C]
        gradients.data_ptr(),  # [N · samples, *output, O]
        inputs.shape[0] // samples,
        samples,
        inputs.shape[-1],
        gradients.shape[-1],
        groups,
        *(_three(sizes, 1) for sizes in (inputs.shape[1:-1], gradients.shape[1:-1], sums.shape[3:], stride)),
        _three(padding, 0),
        _three(dilation, 1),
        sums.dtype == torch.float64,
        torch.get_num_threads(),
    )


def _accumulate_linear_triton(*arguments: Any) -> None:
    importlib.import_module("potion_fast.kernels.accumulate_linear").accumulate_linear(*arguments)


def _accumulate_conv_triton(*arguments: Any) -> None:
    importlib.import_module("potion_fast.kernels.accumulate_conv").accumulate_conv(*arguments)


def _channel_sums_cpu(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    channels_last = inputs.dim() > 2 and inputs.movedim(1, -1).is_contiguous()
    if channels_last:
        inputs, gradients = inputs.movedim(1, -1), gradients.movedim(1, -1)
    inputs, gradients, mean = inputs.contiguous(), gradients.contiguous(), mean.contiguous()
    batch, channels = inputs.shape[0], len(mean)
    scale, shift = inputs.new_empty(batch, channels), inputs.new_empty(batch, channels)
    native.channel_sums_cpu(
        *(tensor.data_ptr() for tensor in (scale, shift, inputs, gradients, mean)),
        batch,
        channels,
        (inputs.shape[1:-1] if channels_last else inputs.shape[2:]).numel(),
        channels_last,
        inputs.dtype == torch.float64,
        torch.get_num_threads(),
    )
    return scale, shift


def _channels_last(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, C, *spatial] as a contiguous [B, *spatial, C]: no copy if it lies so in memory, else a fast one."""
    tensor = tensor.to(dtype)
    moved = tensor.movedim(1, -1)
    if moved.is_contiguous():
        return moved
    copy, tensor = torch.empty(moved.shape, dtype=dtype), tensor.contiguous()
    batch, channels = tensor.shape[:2]
    native.channels_last_cpu(
        copy.data_ptr(),
        tensor.data_ptr(),
        batch,
        channels,
        tensor.shape[2:].numel(),
        dtype == torch.float64,
        torch.get_num_threads(),
    )
    return copy


def _totals(
    sums: Tensor, weights: Tensor | None, bias: Tensor | None, square: bool
) -> tuple[list[int], list[int], int, bool]:
    """What both products write to, as addresses: sums and bias of every k, and the weights."""
    parts = [[part.data_ptr() for part in written] if written is not None else [] for written in (sums, bias)]
    return parts[0], parts[1], 0 if weights is None else weights.data_ptr(), square


def _three(sizes: Sequence[int], missing: int) -> list[int]:
    """[z, y, x] of one to three spatial dimensions."""
    return [missing] * (3 - len(sizes)) + list(sizes)


def _dampen_cpu(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    pointers = weights.data_ptr(), forget.data_ptr(), retain.data_ptr()
    native.dampen_cpu(*pointers, weights.numel(), alpha, dampening, torch.get_num_threads())


def _dampen_cuda(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    pointers = weights.data_ptr(), forget.data_ptr(), retain.data_ptr()
    with torch.cuda.device(weights.device):
        native.dampen_cuda(*pointers, weights.numel(), alpha, dampening, _stream(weights))


def _dampen_triton(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    importlib.import_module("potion_fast.kernels.dampen").dampen(weights, forget, retain, alpha, dampening)


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream


_KERNELS: dict[str, dict[str, Callable[..., Any]]] = {
    "accumulate": {
        "reference": reference.accumulate,
        "cpu": _accumulate_cpu,
        "cuda": _accumulate_cuda,
        "triton": _accumulate_triton,
    },
    "accumulate_linear": {
        "reference": reference.accumulate_linear,
        "cpu": _accumulate_linear_cpu,
        "triton": _accumulate_linear_triton,
    },
    "accumulate_conv": {
        "reference": reference.accumulate_conv,
        "cpu": _accumulate_conv_cpu,
        "triton": _accumulate_conv_triton,
    },
    "channel_sums": {"reference": reference.channel_sums, "cpu": _channel_sums_cpu},
    "select": {"reference": reference.select},
    "dampen": {
        "reference": reference.dampen,
        "cpu": _dampen_cpu,
        "cuda": _dampen_cuda,
        "triton": _dampen_triton,
    },
    "dampen_many": {"reference": reference.dampen_many},
}
OPS = tuple(_KERNELS)


# --- Checks ---------------------------------------------------------------------------------------------------------
# Those on shapes, dtypes and devices also run while torch.compile traces; those on memory only before a kernel.


def _check_flat(op: str, **tensors: Tensor) -> None:
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


def _check_accumulate(sums: Tensor, gradients: list[Tensor]) -> None:
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


def _check_product(
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


def _check_linear(sums: Tensor, inputs: Tensor, gradients: Tensor, weights: Tensor | None, bias: Tensor | None) -> None:
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
    _check_product("accumulate_linear", sums, inputs, gradients, inputs.shape[0], weights, bias)


def _check_conv(
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
    _check_product(op, sums, inputs, gradients, batch // samples, weights, bias)


def _check_channels(inputs: Tensor, gradients: Tensor, mean: Tensor) -> None:
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


def _check_alphas(weights: Tensor, alphas: Tensor) -> None:
    if alphas.dtype != torch.float32 or alphas.dim() != 1 or alphas.device != weights.device:
        raise ImportanceError(
            f"dampen_many: alphas is {alphas.dtype}, {_kind(alphas)}, on {alphas.device}; "
            f"pass K flat float32 numbers on {weights.device}."
        )


def _check_percentiles(percentiles: list[float]) -> None:
    for p in percentiles:
        if not 0 <= p <= 100:
            raise ImportanceError(f"select: percentile {p} is not in [0, 100].")


def _kind(tensor: Tensor) -> str:
    return f"of shape {list(tensor.shape)}" if tensor.layout == torch.strided else str(tensor.layout)


def _check_memory(op: str, name: str, written: Tensor, read: Iterable[tuple[str, Tensor]]) -> None:
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


# --- Registration with PyTorch --------------------------------------------------------------------------------------


def _kernel(op: str, device: torch.device) -> Callable[..., Any]:
    return _KERNELS[op][chosen(op, device).backend]


def _accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    _check_accumulate(sums, gradients)
    _check_memory("accumulate", "sums", sums, ((f"gradient {i}", g) for i, g in enumerate(gradients)))
    _kernel("accumulate", sums.device)(sums, [g.contiguous() for g in gradients], square)
    torch.autograd.graph.increment_version(sums)


def _accumulate_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    _check_linear(sums, inputs, gradients, weights, bias)
    _check_product_memory("accumulate_linear", sums, inputs, gradients, weights, bias)
    kernel = _kernel("accumulate_linear", sums.device)
    if inputs.shape[1] == 1 and kernel is not reference.accumulate_linear:
        kernel = _accumulate_rows
    kernel(sums, inputs.detach(), gradients.detach(), square, weights, bias)
    _written(sums, bias)


def _accumulate_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    _check_conv(sums, inputs, gradients, samples, stride, padding, dilation, groups, weights, bias)
    _check_product_memory("accumulate_conv", sums, inputs, gradients, weights, bias)
    kernel = _kernel("accumulate_conv", sums.device)
    inputs, gradients = inputs.detach(), gradients.detach()
    kernel(sums, inputs, gradients, samples, stride, padding, dilation, groups, square, weights, bias)
    _written(sums, bias)


def _check_product_memory(
    op: str, sums: Tensor, inputs: Tensor, gradients: Tensor, weights: Tensor | None, bias: Tensor | None
) -> None:
    read = [("inputs", inputs), ("gradients", gradients)]
    read += [("weights", weights)] if weights is not None else []
    for name, written in (("sums", sums), ("bias", bias)):
        if written is not None:
            for part in written:  # the parts of one flat buffer [K, n]: contiguous one by one
                _check_memory(op, name, part, read)
    # Both are slices of one flat buffer, [K, n]: their spans interleave, but no element belongs to both.


def _channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    _check_channels(inputs, gradients, mean)
    return _kernel("channel_sums", inputs.device)(inputs, gradients, mean)


def _written(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            torch.autograd.graph.increment_version(tensor)


def _select(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    _check_flat("select", forget=forget, retain=retain)
    _check_percentiles(percentiles)
    return _kernel("select", forget.device)(forget.contiguous(), retain.contiguous(), percentiles)


def _dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    _check_flat("dampen", weights=weights, forget=forget, retain=retain)
    _check_memory("dampen", "weights", weights, (("forget", forget), ("retain", retain)))
    _kernel("dampen", weights.device)(weights, forget.contiguous(), retain.contiguous(), alpha, dampening)
    torch.autograd.graph.increment_version(weights)


def _dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    _check_flat("dampen_many", weights=weights, forget=forget, retain=retain)
    _check_alphas(weights, alphas)
    read = (tensor.contiguous() for tensor in (weights, forget, retain, alphas))
    return _kernel("dampen_many", weights.device)(*read, dampening)


def _fake_accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    _check_accumulate(sums, gradients)


def _fake_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    _check_linear(sums, inputs, gradients, weights, bias)


def _fake_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    _check_conv(sums, inputs, gradients, samples, stride, padding, dilation, groups, weights, bias)


def _fake_channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    _check_channels(inputs, gradients, mean)
    shape = inputs.shape[:2]
    return inputs.new_empty(shape), inputs.new_empty(shape)


def _fake_select(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    _check_flat("select", forget=forget, retain=retain)
    _check_percentiles(percentiles)
    return forget.new_empty(len(percentiles))


def _fake_dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    _check_flat("dampen", weights=weights, forget=forget, retain=retain)


def _fake_dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    _check_flat("dampen_many", weights=weights, forget=forget, retain=retain)
    _check_alphas(weights, alphas)
    return weights.new_empty(alphas.shape[0], weights.shape[0])


_library = torch.library.Library("potion_fast", "DEF")
for _schema, _implementation, _fake in (
    ("accumulate(Tensor(a!) sums, Tensor[] gradients, bool square) -> ()", _accumulate, _fake_accumulate),
    (
        "accumulate_linear(Tensor(a!) sums, Tensor inputs, Tensor gradients, bool square, Tensor? weights, "
        "Tensor(b!)? bias) -> ()",
        _accumulate_linear,
        _fake_linear,
    ),
    (
        "accumulate_conv(Tensor(a!) sums, Tensor inputs, Tensor gradients, int samples, int[] stride, int[] padding, "
        "int[] dilation, int groups, bool square, Tensor? weights, Tensor(b!)? bias) -> ()",
        _accumulate_conv,
        _fake_conv,
    ),
    (
        "channel_sums(Tensor inputs, Tensor gradients, Tensor mean) -> (Tensor, Tensor)",
        _channel_sums,
        _fake_channel_sums,
    ),
    ("select(Tensor forget, Tensor retain, float[] percentiles) -> Tensor", _select, _fake_select),
    (
        "dampen(Tensor(a!) weights, Tensor forget, Tensor retain, float alpha, float dampening) -> ()",
        _dampen,
        _fake_dampen,
    ),
    (
        "dampen_many(Tensor weights, Tensor forget, Tensor retain, Tensor alphas, float dampening) -> Tensor",
        _dampen_many,
        _fake_dampen_many,
    ),
):
    _name = _schema.partition("(")[0]
    _library.define(_schema)
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"potion_fast::{_name}", _fake, lib=_library)
