"""The operation `dampen_many`: edited copies of the weights, one per threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._checks import check_alphas, check_flat
from ._dispatch import current_stream, kernel_for, register
from .native import native


def dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float = 1.0) -> Tensor:
    """Make K dampened copies of the weights, one per α (eq. 1); `weights` stay as they are.

    Args:
        weights: [n] float32, θ.
        forget: [n] float32, Ω_f: mean importances on the forget set.
        retain: [n] float32, Ω_r: mean importances on the retain set.
        alphas: [K] float32.
        dampening: λ, rounded to float32.

    Returns:
        [K, n] float32; row k is what `dampen` makes of the weights with α_k.

    Raises:
        ImportanceError: The tensors do not fit together.
    """
    return torch.ops.potion_fast.dampen_many(weights, forget, retain, alphas, float(dampening))


def _check(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor) -> None:
    check_flat("dampen_many", weights=weights, forget=forget, retain=retain)
    check_alphas("dampen_many", alphas, weights.device)


def _dampen_many(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    _check(weights, forget, retain, alphas)
    read = (tensor.contiguous() for tensor in (weights, forget, retain, alphas))
    return kernel_for("dampen_many", weights.device)(*read, dampening)


def _fake(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    _check(weights, forget, retain, alphas)
    return weights.new_empty(alphas.shape[0], weights.shape[0])


def _cpu(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    n, candidates = weights.numel(), alphas.numel()
    copies = weights.new_empty(candidates, n)
    addresses = (tensor.data_ptr() for tensor in (copies, weights, forget, retain))
    native.dampen_many_cpu(*addresses, n, alphas.data_ptr(), candidates, dampening, torch.get_num_threads())
    return copies


def _cuda(weights: Tensor, forget: Tensor, retain: Tensor, alphas: Tensor, dampening: float) -> Tensor:
    n, candidates = weights.numel(), alphas.numel()
    copies = weights.new_empty(candidates, n)
    addresses = (tensor.data_ptr() for tensor in (copies, weights, forget, retain))
    with torch.cuda.device(weights.device):
        stream = current_stream(weights.device)
        native.dampen_many_cuda(*addresses, n, alphas.data_ptr(), candidates, dampening, stream)
    return copies


register(
    "dampen_many(Tensor weights, Tensor forget, Tensor retain, Tensor alphas, float dampening) -> Tensor",
    _dampen_many,
    _fake,
    reference=reference.dampen_many,
    cpu=_cpu,
    cuda=_cuda,
)
