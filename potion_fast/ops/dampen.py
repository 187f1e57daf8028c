"""The operation `dampen`: one edit of the weights, in place."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from . import reference
from ._checks import check_flat, check_memory
from ._dispatch import current_stream, kernel_for, register
from .native import native


def dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float = 1.0) -> None:
    """θ ← θ · min(λ · Ω_r / Ω_f, 1) wherever Ω_f > α · Ω_r, in place (eq. 1).

    Args:
        weights: [n] float32, contiguous, θ.
        forget: [n] float32, Ω_f: mean importances on the forget set.
        retain: [n] float32, Ω_r: mean importances on the retain set.
        alpha: α, rounded to float32.
        dampening: λ, rounded to float32.

    Raises:
        ImportanceError: The tensors do not fit together.
        BackendError: POTION_FAST_BACKEND asks for a backend that is not there.
    """
    torch.ops.potion_fast.dampen(weights, forget, retain, float(alpha), float(dampening))


def _dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    check_flat("dampen", weights=weights, forget=forget, retain=retain)
    check_memory("dampen", "weights", weights, (("forget", forget), ("retain", retain)))
    kernel_for("dampen", weights.device)(weights, forget.contiguous(), retain.contiguous(), alpha, dampening)
    torch.autograd.graph.increment_version(weights)


def _fake(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    check_flat("dampen", weights=weights, forget=forget, retain=retain)


def _cpu(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    addresses = weights.data_ptr(), forget.data_ptr(), retain.data_ptr()
    native.dampen_cpu(*addresses, weights.numel(), alpha, dampening, torch.get_num_threads())


def _cuda(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    addresses = weights.data_ptr(), forget.data_ptr(), retain.data_ptr()
    with torch.cuda.device(weights.device):
        native.dampen_cuda(*addresses, weights.numel(), alpha, dampening, current_stream(weights.device))


def _triton(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    importlib.import_module("potion_fast.kernels.dampen").dampen(weights, forget, retain, alpha, dampening)


register(
    "dampen(Tensor(a!) weights, Tensor forget, Tensor retain, float alpha, float dampening) -> ()",
    _dampen,
    _fake,
    reference=reference.dampen,
    cpu=_cpu,
    cuda=_cuda,
    triton=_triton,
)
