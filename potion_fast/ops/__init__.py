"""Each operation's schema, its checks, and the choice of the kernel that runs it.

`reference.py` defines what every operation computes. The kernels are faster and give the same bits, but for the two
products and the two sums of norm layers, which add in another order and agree as two matrix products do. A CUDA tensor
goes to the compiled CUDA kernel, else to Triton, else to the reference; a CPU tensor to C++, else to the reference. The
environment variable POTION_FAST_BACKEND (reference, cpu, cuda or triton) overrides the choice for the operations that
have such a kernel, and raises BackendError where the build or the device lacks it. It is read at every call.

Kernels see raw pointers, so `checks.py` has a look at everything first; `launchers.py` then takes the pointers. What is
written must be contiguous and must not share memory with what is read; what is only read may have any strides.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BackendError
from . import checks, launchers, reference
from .native import native, native_problem

BACKENDS = ("reference", "cpu", "cuda", "triton")
_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

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


def row_sums(inputs: Tensor, gradients: Tensor, eps: float, centred: bool = True) -> tuple[Tensor, Tensor]:
    """Σ_t g[n,t,c] · x̂[n,t,c] and Σ_t g[n,t,c]: what the scale and the shift of a layer norm get.

    inputs, gradients  [N, T, d], x and g, float32 or float64; x̂ is the row x[n,t], its mean taken off if `centred`,
                       divided by √(mean of squares + eps)
    returns            [N, d] and [N, d]

    Raises ImportanceError for tensors that do not fit together.
    """
    return torch.ops.potion_fast.row_sums(inputs, gradients, eps, centred)


def select(forget: Tensor, retain: Tensor, percentiles: Sequence[float]) -> Tensor:
    """α_k, the percentile p_k of Ω_f / Ω_r over the elements where the ratio is finite.

    forget, retain  [n] float32, mean importances
    percentiles     K numbers in [0, 100]
    returns         [K] float32; NaN where no ratio is finite

    Raises ImportanceError for tensors that do not fit together or a percentile out of range.
    """
    return torch.ops.potion_fast.select(forget, retain, [float(p) for p in percentiles])


def group(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights that some candidate changes, each in the group of the first candidate, by falling α, that selects it.

    forget, retain  [n] float32, mean importances
    alphas          [K] float32, in any order; NaN comes first and selects nothing
    dampening       λ, rounded to float32; weights whose factor λ · Ω_r / Ω_f is not below 1 are left out, for 0 none
    returns         index [m], forget [m], retain [m] of those weights, by group, then by ascending index (int32 where
                    n < 2³¹, else int64); starts [K + 1] int64 on the CPU: group j is [starts[j], starts[j + 1])

    Raises ImportanceError for tensors that do not fit together or λ below 0.
    """
    return torch.ops.potion_fast.group(forget, retain, alphas, float(dampening))


def select_group(
    forget: Tensor, retain: Tensor, percentiles: Sequence[float], dampening: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`select`, and `group` with the thresholds found, in one read of the importances: alphas, index, forget, ….

    Raises ImportanceError for tensors that do not fit together, a percentile out of range or λ below 0.
    """
    return torch.ops.potion_fast.select_group(forget, retain, [float(p) for p in percentiles], float(dampening))


def take(parameters: Sequence[Tensor], offsets: Sequence[int], cuts: Sequence[int], index: Tensor) -> Tensor:
    """The weights at some places of a flat buffer that is spread over parameters.

    parameters  P float32 tensors without gaps in their memory: contiguous, channels-last, transposed
    offsets     [P]: where each begins in the flat buffer, which has its elements in the order of its memory
    cuts        [P + 1]: index[cuts[p] : cuts[p + 1]] lies in parameter p
    index       [m] int32 or int64, on the parameters' device
    returns     [m] float32

    Raises ImportanceError for tensors that do not fit together; on the CPU also for a place outside its parameter.
    """
    return torch.ops.potion_fast.take(list(parameters), list(offsets), list(cuts), index)


def put(
    parameters: Sequence[Tensor], offsets: Sequence[int], cuts: Sequence[int], index: Tensor, values: Tensor
) -> None:
    """Set those weights to `values` [m], in place; each place comes once. The rest as for `take`."""
    torch.ops.potion_fast.put(list(parameters), list(offsets), list(cuts), index, values)


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


# --- The kernels ----------------------------------------------------------------------------------------------------


_KERNELS: dict[str, dict[str, Callable[..., Any]]] = {
    "accumulate": {
        "reference": reference.accumulate,
        "cpu": launchers.accumulate_cpu,
        "cuda": launchers.accumulate_cuda,
        "triton": launchers.accumulate_triton,
    },
    "accumulate_linear": {
        "reference": reference.accumulate_linear,
        "cpu": launchers.accumulate_linear_cpu,
        "triton": launchers.accumulate_linear_triton,
    },
    "accumulate_conv": {
        "reference": reference.accumulate_conv,
        "cpu": launchers.accumulate_conv_cpu,
        "triton": launchers.accumulate_conv_triton,
    },
    "channel_sums": {"reference": reference.channel_sums, "cpu": launchers.channel_sums_cpu},
    "row_sums": {"reference": reference.row_sums, "cpu": launchers.row_sums_cpu},
    "select": {"reference": reference.select, "cpu": launchers.select_cpu, "cuda": launchers.select_cuda},
    "group": {"reference": reference.group, "cpu": launchers.group_cpu, "cuda": launchers.group_cuda},
    "select_group": {
        "reference": reference.select_group,
        "cpu": launchers.select_group_cpu,
        "cuda": launchers.select_group_cuda,
    },
    "take": {"reference": reference.take, "cpu": launchers.take_cpu, "cuda": launchers.take_cuda},
    "put": {"reference": reference.put, "cpu": launchers.put_cpu, "cuda": launchers.put_cuda},
    "dampen": {
        "reference": reference.dampen,
        "cpu": launchers.dampen_cpu,
        "cuda": launchers.dampen_cuda,
        "triton": launchers.dampen_triton,
    },
    "dampen_many": {
        "reference": reference.dampen_many,
        "cpu": launchers.dampen_many_cpu,
        "cuda": launchers.dampen_many_cuda,
    },
}
OPS = tuple(_KERNELS)


# --- Registration with PyTorch --------------------------------------------------------------------------------------


def _kernel(op: str, device: torch.device) -> Callable[..., Any]:
    return _KERNELS[op][chosen(op, device).backend]


def _accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    checks.check_accumulate(sums, gradients)
    checks.check_memory("accumulate", "sums", sums, ((f"gradient {i}", g) for i, g in enumerate(gradients)))
    _kernel("accumulate", sums.device)(sums, [g.contiguous() for g in gradients], square)
    torch.autograd.graph.increment_version(sums)


def _accumulate_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    checks.check_linear(sums, inputs, gradients, weights, bias)
    checks.check_product_memory("accumulate_linear", sums, inputs, gradients, weights, bias)
    kernel = _kernel("accumulate_linear", sums.device)
    if inputs.shape[1] == 1 and kernel is not reference.accumulate_linear:
        kernel = launchers.accumulate_rows  # one row each: a plain matrix product of sizes
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
    checks.check_conv(sums, inputs, gradients, samples, stride, padding, dilation, groups, weights, bias)
    checks.check_product_memory("accumulate_conv", sums, inputs, gradients, weights, bias)
    kernel = _kernel("accumulate_conv", sums.device)
    inputs, gradients = inputs.detach(), gradients.detach()
    kernel(sums, inputs, gradients, samples, stride, padding, dilation, groups, square, weights, bias)
    _written(sums, bias)


def _channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    checks.check_channels(inputs, gradients, mean)
    return _kernel("channel_sums", inputs.device)(inputs, gradients, mean)


def _row_sums(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    checks.check_rows(inputs, gradients)
    return _kernel("row_sums", inputs.device)(inputs, gradients, eps, centred)


def _written(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            torch.autograd.graph.increment_version(tensor)


def _select(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    checks.check_flat("select", forget=forget, retain=retain)
    checks.check_percentiles("select", percentiles)
    return _kernel("select", forget.device)(forget.contiguous(), retain.contiguous(), percentiles)


def _group(forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_flat("group", forget=forget, retain=retain)
    checks.check_alphas("group", alphas, forget.device)
    checks.check_dampening("group", dampening)
    read = (tensor.contiguous() for tensor in (forget, retain, alphas))
    return _kernel("group", forget.device)(*read, dampening)


def _select_group(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    checks.check_flat("select_group", forget=forget, retain=retain)
    checks.check_percentiles("select_group", percentiles)
    checks.check_dampening("select_group", dampening)
    kernel = _kernel("select_group", forget.device)
    return kernel(forget.contiguous(), retain.contiguous(), percentiles, dampening)


def _take(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    checks.check_places("take", parameters, offsets, cuts, index)
    return _kernel("take", index.device)(parameters, offsets, cuts, index.contiguous())


def _put(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    checks.check_places("put", parameters, offsets, cuts, index)
    checks.check_values("put", values, index)
    checks.check_put_memory(parameters, index, values)
    _kernel("put", index.device)(parameters, offsets, cuts, index.contiguous(), values.contiguous())
    torch.autograd.graph.increment_version(parameters)


def _dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    checks.check_flat("dampen", weights=weights, forget=forget, retain=retain)
    checks.check_memory("dampen", "weights", weights, (("forget", forget), ("retain", retain)))
    _kernel("dampen", weights.device)(weights, forget.contiguous(), retain.contiguous(), alpha, dampening)
    torch.autograd.graph.increment_version(weights)


def _dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    checks.check_flat("dampen_many", weights=weights, forget=forget, retain=retain)
    checks.check_alphas("dampen_many", alphas, weights.device)
    read = (tensor.contiguous() for tensor in (weights, forget, retain, alphas))
    return _kernel("dampen_many", weights.device)(*read, dampening)


def _fake_accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    checks.check_accumulate(sums, gradients)


def _fake_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    checks.check_linear(sums, inputs, gradients, weights, bias)


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
    checks.check_conv(sums, inputs, gradients, samples, stride, padding, dilation, groups, weights, bias)


def _fake_channel_sums(inputs: Tensor, gradients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    checks.check_channels(inputs, gradients, mean)
    shape = inputs.shape[:2]
    return inputs.new_empty(shape), inputs.new_empty(shape)


def _fake_row_sums(inputs: Tensor, gradients: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    checks.check_rows(inputs, gradients)
    shape = inputs.shape[0], inputs.shape[2]
    return inputs.new_empty(shape), inputs.new_empty(shape)


def _fake_select(forget: Tensor, retain: Tensor, percentiles: list[float]) -> Tensor:
    checks.check_flat("select", forget=forget, retain=retain)
    checks.check_percentiles("select", percentiles)
    return forget.new_empty(len(percentiles))


def _fake_group(
    forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_flat("group", forget=forget, retain=retain)
    checks.check_alphas("group", alphas, forget.device)
    checks.check_dampening("group", dampening)
    return _fake_groups(forget, alphas.shape[0])


def _fake_select_group(
    forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    checks.check_dampening("select_group", dampening)
    return _fake_select(forget, retain, percentiles), *_fake_groups(forget, len(percentiles))


def _fake_groups(forget: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    m = torch.library.get_ctx().new_dynamic_size()
    index = forget.new_empty(m, dtype=torch.int32 if forget.shape[0] < 2**31 else torch.int64)
    return index, forget.new_empty(m), forget.new_empty(m), torch.empty(candidates + 1, dtype=torch.int64, device="cpu")


def _fake_take(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor) -> Tensor:
    checks.check_places("take", parameters, offsets, cuts, index)
    return index.new_empty(index.shape, dtype=torch.float32)


def _fake_put(parameters: list[Tensor], offsets: list[int], cuts: list[int], index: Tensor, values: Tensor) -> None:
    checks.check_places("put", parameters, offsets, cuts, index)
    checks.check_values("put", values, index)


def _fake_dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    checks.check_flat("dampen", weights=weights, forget=forget, retain=retain)


def _fake_dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    checks.check_flat("dampen_many", weights=weights, forget=forget, retain=retain)
    checks.check_alphas("dampen_many", alphas, weights.device)
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
    (
        "row_sums(Tensor inputs, Tensor gradients, float eps, bool centred) -> (Tensor, Tensor)",
        _row_sums,
        _fake_row_sums,
    ),
    ("select(Tensor forget, Tensor retain, float[] percentiles) -> Tensor", _select, _fake_select),
    (
        "group(Tensor forget, Tensor retain, Tensor alphas, float dampening) -> (Tensor, Tensor, Tensor, Tensor)",
        _group,
        _fake_group,
    ),
    (
        "select_group(Tensor forget, Tensor retain, float[] percentiles, float dampening) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor)",
        _select_group,
        _fake_select_group,
    ),
    ("take(Tensor[] parameters, int[] offsets, int[] cuts, Tensor index) -> Tensor", _take, _fake_take),
    (
        "put(Tensor(a!)[] parameters, int[] offsets, int[] cuts, Tensor index, Tensor values) -> ()",
        _put,
        _fake_put,
    ),
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
