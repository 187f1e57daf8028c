"""sums[k,o,i] += Σ_n w[k,n] · |Σ_t G[n,t,o] · A[n,t,i]|, or its square.

As much arithmetic as the ordinary weight gradient, and like it bound by arithmetic. A program owns a tile of [O, I] and
a share of the n. `tl.dot` sums one n over its t; when that n ends, the size of the sum is added to a second accumulator
and the first starts again from zero. Both are float32. The shares leave partial sums that are added in a fixed order,
so every run gives the same bits. The bias is the weight of one more input, which is always one.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from potion_fast.ops import reference

from .tiles import ALIGN, add_size, choose_terms_per_share, multiplication, operand, shape_class, tile_for


@triton.jit(do_not_specialize=["terms", "rows", "out_units", "in_units", "terms_per_share"])
def accumulate_linear_kernel(
    partial,  # [shares, O, I] float32
    partial_bias,  # [shares, O] float32, or None
    inputs,  # [N, T, I]
    gradients,  # [N, T, O]
    weights,  # [N] float32, or None
    terms,  # N
    rows,  # T
    out_units,  # O / align
    in_units,  # I / align
    terms_per_share,  # how many n a program takes
    square: tl.constexpr,
    precision: tl.constexpr,
    align: tl.constexpr,
    block_o: tl.constexpr,
    block_i: tl.constexpr,
    block_t: tl.constexpr,
):
    """Compute one tile of [O, I] over one share of the n."""
    out_features, in_features = out_units * align, in_units * align
    tiles_i, tiles_o = tl.cdiv(in_features, block_i), tl.cdiv(out_features, block_o)
    program = tl.program_id(0)
    tile_i = program % tiles_i
    tile_o = program // tiles_i % tiles_o
    share = program // tiles_i // tiles_o

    o = tile_o * block_o + tl.arange(0, block_o)  # [block_o]
    i = tile_i * block_i + tl.arange(0, block_i)  # [block_i]
    t = tl.arange(0, block_t)  # [block_t]
    offsets_g = o[:, None] + t[None, :] * out_features  # [block_o, block_t]
    offsets_a = t[:, None] * in_features + i[None, :]  # [block_t, block_i]
    inside_o = (o < out_features)[:, None]
    inside_i = (i < in_features)[None, :]

    total = tl.zeros((block_o, block_i), tl.float32)
    product = tl.zeros((block_o, block_i), tl.float32)
    total_bias = tl.zeros((block_o, 16), tl.float32)  # 16 equal columns, the fewest that tl.dot takes
    product_bias = tl.zeros((block_o, 16), tl.float32)
    n = share * terms_per_share
    start = 0
    # One flat loop over all t of all n, so that loads run ahead across the end of an n.
    for _ in range((tl.minimum(n + terms_per_share, terms) - n) * tl.cdiv(rows, block_t)):
        inside_t = start + t < rows
        first = n.to(tl.int64) * rows + start
        g = tl.load(gradients + first * out_features + offsets_g, mask=inside_o & inside_t[None, :], other=0.0)
        a = tl.load(inputs + first * in_features + offsets_a, mask=inside_t[:, None] & inside_i, other=0.0)
        product = tl.dot(g, a, product, input_precision=precision)
        if partial_bias is not None and tile_i == 0:
            ones = tl.full((block_t, 16), 1, g.dtype)
            product_bias = tl.dot(g, ones, product_bias, input_precision=precision)
        ends = start + block_t >= rows
        if ends:
            total = add_size(total, product, weights, n, square)
            product = tl.zeros((block_o, block_i), tl.float32)
            if partial_bias is not None and tile_i == 0:
                total_bias = add_size(total_bias, product_bias, weights, n, square)
                product_bias = tl.zeros((block_o, 16), tl.float32)
        # Apart from the branch above: a load whose address waits for the products cannot run ahead.
        n += tl.where(ends, 1, 0)
        start = tl.where(ends, 0, start + block_t)

    row = share.to(tl.int64) * out_features + o
    tl.store(partial + row[:, None] * in_features + i[None, :], total, mask=inside_o & inside_i)
    if partial_bias is not None and tile_i == 0:
        tl.store(partial_bias + row, tl.sum(total_bias, 1) / 16, mask=o < out_features)


def accumulate_linear(
    sums: Tensor, inputs: Tensor, gradients: Tensor, square: bool, weights: Tensor | None, bias: Tensor | None
) -> None:
    """As `potion_fast.ops.reference.accumulate_linear`. Checked by `potion_fast.ops`.

    The operands multiply in their own dtype, float32 at the precision of torch.set_float32_matmul_precision(). float64
    sums and empty tensors go to the reference.
    """
    if sums.dtype == torch.float64 or 0 in (sums.numel(), inputs.numel()):
        reference.accumulate_linear(sums, inputs, gradients, square, weights, bias)
        return
    out, into = sums.shape[1:]
    terms, rows, _ = inputs.shape
    inputs, gradients = (
        operand(pad(x, (0, -x.shape[-1] % ALIGN)) if x.shape[-1] % ALIGN else x) for x in (inputs, gradients)
    )
    out_features, in_features = gradients.shape[-1], inputs.shape[-1]

    multiply = multiplication(inputs.dtype)
    tile = tile_for("accumulate_linear", sums, multiply, shape_class(out_features, in_features, rows, ALIGN))
    tiles = triton.cdiv(out_features, tile.block_o) * triton.cdiv(in_features, tile.block_i)
    steps = triton.cdiv(rows, tile.block_t)
    terms_per_share = choose_terms_per_share(tile, tiles, terms, steps, out_features * in_features, sums.device)
    shares = triton.cdiv(terms, terms_per_share)
    partial = sums.new_empty(shares, out_features, in_features)
    partial_bias = None if bias is None else sums.new_empty(shares, out_features)
    with torch.cuda.device(sums.device) if sums.is_cuda else nullcontext():
        for k in range(sums.shape[0]):
            accumulate_linear_kernel[(tiles * shares,)](
                partial,
                partial_bias,
                inputs,
                gradients,
                None if weights is None else weights[k].contiguous(),
                terms,
                rows,
                out_features // ALIGN,
                in_features // ALIGN,
                terms_per_share,
                square=square,
                precision="ieee" if multiply == "ieee" else "tf32",
                align=ALIGN,
                block_o=tile.block_o,
                block_i=tile.block_i,
                block_t=tile.block_t,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
            sums[k] += partial.sum(0)[:out, :into]
            if bias is not None and partial_bias is not None:
                bias[k] += partial_bias.sum(0)[:out]
