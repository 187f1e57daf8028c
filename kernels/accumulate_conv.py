"""accumulate_linear for a convolution: its inputs are the columns of im2col, gathered inside the kernel, never stored.

A row t is an output position of one of the samples of n, a column i is a tap of the kernel and a channel of the group,
and A[t,i] is the pixel under that tap, zero in the padding. Memory is channels-last, so a column's channels lie side by
side. Otherwise as `accumulate_linear`. Depthwise convolutions have no product of matrices; their kernel is below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from potion_fast.ops import reference

from .tiles import ALIGN, add_size, multiplication, operand, shape_class, terms_per_share, tile_for

GEOMETRY = [
    "samples",
    "groups",
    "taps",
    "taps_y",
    "taps_x",
    "depth",
    "height",
    "width",
    "out_depth",
    "out_height",
    "out_width",
    "stride_z",
    "stride_y",
    "stride_x",
    "padding_z",
    "padding_y",
    "padding_x",
    "dilation_z",
    "dilation_y",
    "dilation_x",
]


@triton.jit
def first_position(t, out_width, out_height, out_depth):
    """The coordinates x, y, z of output position t, and its sample."""
    row = t // out_width
    plane = row // out_height
    return t % out_width, row % out_height, plane % out_depth, plane // out_depth


@triton.jit
def next_position(x, y, z, b, steps: tl.constexpr, out_width, out_height, out_depth):
    """The position after `steps` more, without a division of vectors: coordinates are added and carried."""
    step_x, step_y, step_z, step_b = first_position(steps, out_width, out_height, out_depth)
    x += step_x
    carry = x >= out_width
    x = tl.where(carry, x - out_width, x)
    y += step_y + carry.to(tl.int32)
    carry = y >= out_height
    y = tl.where(carry, y - out_height, y)
    z += step_z + carry.to(tl.int32)
    carry = z >= out_depth
    z = tl.where(carry, z - out_depth, z)
    return x, y, z, b + step_b + carry.to(tl.int32)


@triton.jit
def within(index, size):
    """Whether 0 <= index < size, in one comparison."""
    return index.to(tl.uint32, bitcast=True) < size


@triton.jit(do_not_specialize=["terms", "units_o", "units_c", "per_share", *GEOMETRY])
def accumulate_conv_kernel(
    partial,  # [shares, O, taps · C / groups] float32
    partial_bias,  # [shares, O] float32, or None
    inputs,  # [N · samples, depth, height, width, C]
    gradients,  # [N · samples, out_depth, out_height, out_width, O]
    weights,  # [N] float32, or None
    terms,  # N
    units_o,  # O / groups / align
    units_c,  # C / groups / align
    per_share,  # how many n a program takes
    samples,
    groups,
    taps,
    taps_y,
    taps_x,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    stride_z,
    stride_y,
    stride_x,
    padding_z,
    padding_y,
    padding_x,
    dilation_z,
    dilation_y,
    dilation_x,
    one_tap: tl.constexpr,  # does a tile stay within a tap? Then only rows can be outside
    square: tl.constexpr,
    precision: tl.constexpr,
    align: tl.constexpr,
    block_o: tl.constexpr,
    block_i: tl.constexpr,
    block_t: tl.constexpr,
):
    """Compute one tile of [O, taps · C] of one group over one share of the n."""
    wide_o, wide_c = units_o * align, units_c * align
    tiles_o = tl.cdiv(wide_o, block_o)
    tiles_c = tl.cdiv(wide_c, block_i)
    tiles_i = taps * tiles_c if one_tap else tl.cdiv(taps * wide_c, block_i)
    program = tl.program_id(0)
    tile_i = program % tiles_i
    tile_o = program // tiles_i % tiles_o
    group = program // tiles_i // tiles_o % groups
    share = program // tiles_i // tiles_o // groups

    if one_tap:
        tap = tile_i // tiles_c
        c = tile_i % tiles_c * block_i + tl.arange(0, block_i)  # [block_i]
        inside_i = c < wide_c
    else:
        i = tile_i * block_i + tl.arange(0, block_i)
        tap = i // wide_c  # [block_i]
        c = i % wide_c
        inside_i = i < taps * wide_c
    tap_z = tap // taps_x // taps_y * dilation_z
    tap_y = tap // taps_x % taps_y * dilation_y
    tap_x = tap % taps_x * dilation_x
    offsets_a = ((tap_z * height + tap_y) * width + tap_x) * (wide_c * groups) + group * wide_c + c
    column = tap * wide_c + c
    if not one_tap:
        tap_z, tap_y, tap_x = tap_z[None, :], tap_y[None, :], tap_x[None, :]

    o = tile_o * block_o + tl.arange(0, block_o)  # [block_o]
    t = tl.arange(0, block_t)  # [block_t]
    offsets_g = group * wide_o + o[:, None] + t[None, :] * (wide_o * groups)  # [block_o, block_t]
    inside_o = (o < wide_o)[:, None]
    rows = samples * out_depth * out_height * out_width
    first_x, first_y, first_z, first_b = first_position(t, out_width, out_height, out_depth)
    x, y, z, b = first_x, first_y, first_z, first_b

    total = tl.zeros((block_o, block_i), tl.float32)
    product = tl.zeros((block_o, block_i), tl.float32)
    total_bias = tl.zeros((block_o, 16), tl.float32)
    product_bias = tl.zeros((block_o, 16), tl.float32)
    n = share * per_share
    start = 0
    for _ in range((tl.minimum(n + per_share, terms) - n) * tl.cdiv(rows, block_t)):
        inside_t = start + t < rows
        first = (n.to(tl.int64) * rows + start) * (wide_o * groups)
        g = tl.load(gradients + first + offsets_g, mask=inside_o & inside_t[None, :], other=0.0)

        in_z = z * stride_z - padding_z  # [block_t], under the first tap
        in_y = y * stride_y - padding_y
        in_x = x * stride_x - padding_x
        pixel = (((n.to(tl.int64) * samples + b) * depth + in_z) * height + in_y) * width + in_x
        inside = within(in_z[:, None] + tap_z, depth) & within(in_y[:, None] + tap_y, height)
        inside &= within(in_x[:, None] + tap_x, width) & inside_t[:, None]
        pixels = inputs + pixel[:, None] * (wide_c * groups) + offsets_a[None, :]  # [block_t, block_i]
        a = tl.load(pixels, mask=inside & inside_i[None, :], other=0.0)

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
        n += tl.where(ends, 1, 0)
        start = tl.where(ends, 0, start + block_t)
        x, y, z, b = next_position(x, y, z, b, block_t, out_width, out_height, out_depth)
        x, y = tl.where(ends, first_x, x), tl.where(ends, first_y, y)
        z, b = tl.where(ends, first_z, z), tl.where(ends, first_b, b)

    row = (share.to(tl.int64) * groups + group) * wide_o + o
    tl.store(partial + row[:, None] * (taps * wide_c) + column[None, :], total, mask=inside_o & inside_i[None, :])
    if partial_bias is not None and tile_i == 0:
        tl.store(partial_bias + row, tl.sum(total_bias, 1) / 16, mask=o < wide_o)


@triton.jit(do_not_specialize=["terms", "units", "per_share", *GEOMETRY])
def accumulate_depthwise_kernel(
    partial,  # [shares, C, taps] float32
    partial_bias,  # [shares, C] float32, or None
    inputs,  # [N · samples, depth, height, width, C]
    gradients,  # [N · samples, out_depth, out_height, out_width, C]
    weights,  # [N] float32, or None
    terms,  # N
    units,  # C / align
    per_share,  # how many n a program takes
    samples,
    taps,
    taps_y,
    taps_x,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    stride_z,
    stride_y,
    stride_x,
    padding_z,
    padding_y,
    padding_x,
    dilation_z,
    dilation_y,
    dilation_x,
    square: tl.constexpr,
    align: tl.constexpr,
    block_c: tl.constexpr,
    block_tap: tl.constexpr,
    block_t: tl.constexpr,
):
    """Compute one tile of [C, taps] of a depthwise convolution over one share of the n."""
    channels = units * align
    tiles_tap, tiles_c = tl.cdiv(taps, block_tap), tl.cdiv(channels, block_c)
    program = tl.program_id(0)
    tile_tap = program % tiles_tap
    tile_c = program // tiles_tap % tiles_c
    share = program // tiles_tap // tiles_c

    c = tile_c * block_c + tl.arange(0, block_c)  # [block_c]
    tap = tile_tap * block_tap + tl.arange(0, block_tap)  # [block_tap]
    t = tl.arange(0, block_t)  # [block_t]
    inside_c, inside_tap = c < channels, tap < taps
    tap_z = tap // taps_x // taps_y * dilation_z
    tap_y = tap // taps_x % taps_y * dilation_y
    tap_x = tap % taps_x * dilation_x
    offsets_tap = ((tap_z * height + tap_y) * width + tap_x) * channels
    rows = samples * out_depth * out_height * out_width
    first_x, first_y, first_z, first_b = first_position(t, out_width, out_height, out_depth)

    total = tl.zeros((block_tap, block_c), tl.float32)
    total_bias = tl.zeros((block_c,), tl.float32)
    first = share * per_share
    for n in range(first, tl.minimum(first + per_share, terms)):
        product = tl.zeros((block_t, block_tap, block_c), tl.float32)
        column = tl.zeros((block_t, block_c), tl.float32)
        x, y, z, b = first_x, first_y, first_z, first_b
        for start in range(0, rows, block_t):
            inside_t = start + t < rows
            row = tl.cast(n, tl.int64) * rows + start + t
            at = gradients + row[:, None] * channels + c[None, :]
            g = tl.load(at, mask=inside_t[:, None] & inside_c[None, :], other=0.0).to(tl.float32)  # [block_t, block_c]

            in_z = z * stride_z - padding_z
            in_y = y * stride_y - padding_y
            in_x = x * stride_x - padding_x
            pixel = (((tl.cast(n, tl.int64) * samples + b) * depth + in_z) * height + in_y) * width + in_x  # [block_t]
            inside = within(in_z[:, None] + tap_z[None, :], depth) & within(in_y[:, None] + tap_y[None, :], height)
            inside &= within(in_x[:, None] + tap_x[None, :], width) & inside_t[:, None] & inside_tap[None, :]
            at = pixel[:, None] * channels + offsets_tap[None, :]  # [block_t, block_tap]
            pixels = inputs + at[:, :, None] + c[None, None, :]
            a = tl.load(pixels, mask=inside[:, :, None] & inside_c[None, None, :], other=0.0).to(tl.float32)

            product += g[:, None, :] * a
            column += g
            x, y, z, b = next_position(x, y, z, b, block_t, out_width, out_height, out_depth)
        total = add_size(total, tl.sum(product, 0), weights, n, square)
        if partial_bias is not None:
            total_bias = add_size(total_bias, tl.sum(column, 0), weights, n, square)

    row = share.to(tl.int64) * channels + c
    mask = inside_tap[:, None] & inside_c[None, :]
    tl.store(partial + row[None, :] * taps + tap[:, None], total, mask=mask)
    if partial_bias is not None and tile_tap == 0:
        tl.store(partial_bias + row, total_bias, mask=inside_c)


def accumulate_conv(
    sums: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    samples: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    square: bool,
    weights: Tensor | None,
    bias: Tensor | None,
) -> None:
    """As `potion_fast.ops.reference.accumulate_conv`. Checked by `potion_fast.ops`.

    The operands multiply in their own dtype, float32 at the precision of torch.set_float32_matmul_precision();
    depthwise ones always in full precision. float64 sums, empty tensors and a sample of 2³¹ elements go to the
    reference.
    """
    empty = 0 in (sums.numel(), inputs.numel(), gradients.numel())
    if sums.dtype == torch.float64 or empty or inputs[0].numel() >= 2**31:
        geometry = (samples, stride, padding, dilation, groups)
        reference.accumulate_conv(sums, inputs, gradients, *geometry, square, weights, bias)
        return
    out, wide_c, *kernel = sums.shape[1:]
    wide_o, taps = out // groups, math.prod(kernel)
    terms = inputs.shape[0] // samples
    rows = samples * gradients[0, 0].numel()
    size, out_size = inputs.shape[2:], gradients.shape[2:]
    inputs, gradients = (operand(x.movedim(1, -1)) for x in (inputs, gradients))

    depthwise = wide_c == wide_o == 1
    widths = (out,) if depthwise else (wide_o, wide_c)
    align = ALIGN if all(width % ALIGN == 0 for width in widths) else 1
    multiply = multiplication(inputs.dtype)
    shape = "depthwise" if depthwise else shape_class(wide_o, taps * wide_c, rows, align)
    tile = tile_for("accumulate_conv", sums, multiply, shape)
    tiles_i = triton.cdiv(taps * wide_c, tile.block_i)
    tiles_of_taps = taps * triton.cdiv(wide_c, tile.block_i)
    one_tap = align > 1 and 4 * tiles_of_taps <= 5 * tiles_i  # cheaper masks are worth a quarter more columns
    if depthwise:
        tiles = triton.cdiv(out, tile.block_o) * tiles_i
    else:
        tiles = groups * triton.cdiv(wide_o, tile.block_o) * (tiles_of_taps if one_tap else tiles_i)
    steps = triton.cdiv(rows, tile.block_t)
    per_share = terms_per_share(tile, tiles, terms, steps, out * taps * wide_c, sums.device)
    shares = triton.cdiv(terms, per_share)
    partial = sums.new_empty(shares, out, taps * wide_c)
    partial_bias = None if bias is None else sums.new_empty(shares, out)
    where = (taps, *_three(kernel, 1)[1:], *_three(size, 1), *_three(out_size, 1))
    where += (*_three(stride, 1), *_three(padding, 0), *_three(dilation, 1))
    launch = {"num_warps": tile.warps, "num_stages": tile.stages, "block_t": tile.block_t}
    launch |= {"square": square, "align": align}

    with torch.cuda.device(sums.device) if sums.is_cuda else nullcontext():
        for k in range(sums.shape[0]):
            tensors = (partial, partial_bias, inputs, gradients, None if weights is None else weights[k].contiguous())
            if depthwise:
                accumulate_depthwise_kernel[(tiles * shares,)](
                    *tensors,
                    terms,
                    out // align,
                    per_share,
                    samples,
                    *where,
                    block_c=tile.block_o,
                    block_tap=tile.block_i,
                    **launch,
                )
            else:
                accumulate_conv_kernel[(tiles * shares,)](
                    *tensors,
                    terms,
                    wide_o // align,
                    wide_c // align,
                    per_share,
                    samples,
                    groups,
                    *where,
                    one_tap=one_tap,
                    precision="ieee" if multiply == "ieee" else "tf32",
                    block_o=tile.block_o,
                    block_i=tile.block_i,
                    **launch,
                )
            sums[k] += partial.sum(0).view(out, *kernel, wide_c).movedim(-1, 1)
            if bias is not None and partial_bias is not None:
                bias[k] += partial_bias.sum(0)


def _three(values: Sequence[int], first: int) -> tuple[int, ...]:
    """One number per spatial dimension, as if there were three."""
    return (*[first] * (3 - len(values)), *values)
