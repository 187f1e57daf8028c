"""θ ← θ · min(λ · Ω_r / Ω_f, 1) wherever Ω_f > α · Ω_r, in place (eq. 1 of Potion).

8 bytes per parameter are read (forget and retain), and a weight only where it changes. Rounding is that of the
reference: IEEE division (Triton's `/` may be 2 ulp off), no fma, the product and not the ratio decides.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def dampen_kernel(
    weights,  # [n] float32
    forget,  # [n] float32
    retain,  # [n] float32
    n,
    alpha,
    dampening,
    block: tl.constexpr,
):
    """Dampen one block of weights."""
    offsets = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = offsets < n
    f = tl.load(forget + offsets, mask=inside, other=0.0)
    r = tl.load(retain + offsets, mask=inside, other=0.0)
    selected = inside & (f > alpha * r)
    factor = tl.div_rn(dampening * r, f)
    factor = tl.where(factor > 1.0, 1.0, factor)  # a NaN stays, as in torch.clamp
    weight = tl.load(weights + offsets, mask=selected)
    tl.store(weights + offsets, weight * factor, mask=selected)


def dampen(weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float) -> None:
    """As `potion_fast.ops.reference.dampen`, on contiguous tensors. Checked by `potion_fast.ops`."""
    n = weights.numel()
    if n == 0:
        return
    with torch.cuda.device(weights.device) if weights.is_cuda else nullcontext():
        dampen_kernel[(triton.cdiv(n, BLOCK),)](
            weights, forget, retain, n, alpha, dampening, block=BLOCK, enable_fp_fusion=False
        )
