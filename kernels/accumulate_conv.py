"""accumulate_linear for a convolution: its inputs are the columns of im2col, gathered inside the kernel, never stored.

A row t is an output position of one of the samples of n, a column i is a tap (a position of the convolution's kernel)
and a channel of the group, and A[t,i] is the pixel under that tap, zero in the padding. Memory is channels-last, so a
column's channels lie side by side. Otherwise as `accumulate_linear`. Depthwise convolutions have no product of
matrices; their kernel is below.
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
from potion_fast.ops.accumulate_conv import in_three_dimensions

from .tiles import ALIGN, add_size, choose_terms_per_share, multiplication, operand, shape_class, tile_for

GEOMETRY = [
    "samples",
    "groups",
    "kernel_size",
    "kernel_height",
    "kernel_width",
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


@triton.jit(do_not_specialize=["terms", "out_units", "in_units", "terms_per_share", *GEOMETRY])
def accumulate_conv_kernel(
    partial,  # [shares, O, kernel_size · C / groups] float32
    partial_bias,  # [shares, O] float32, or None
    inputs,  # [N · samples, depth, height, width, C]
    gradients,  # [N · samples, out_depth, out_height, out_width, O]
    weights,  # [N] float32, or None
    terms,  # N
    out_units,  # O / groups / align
    in_units,  # C / groups / align
    terms_per_share,  # how many n a program takes
    samples,
    groups,
    kernel_size,
    kernel_height,
    kernel_width,
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
    single_tap: tl.constexpr,  # does a tile stay within a tap? Then only rows can be outside
    square: tl.constexpr,
    precision: tl.constexpr,
    align: tl.constexpr,
    block_o: tl.constexpr,
    block_i: tl.constexpr,
    block_t: tl.constexpr,
):
    """Compute one tile of [O, kernel_size · C] of one group over one share of the n."""
    out_channels, in_channels = out_units * align, in_units * align
    tiles_o = tl.cdiv(out_channels, block_o)
    tiles_c = tl.cdiv(in_channels, block_i)
    tiles_i = kernel_size * tiles_c if single_tap else tl.cdiv(kernel_size * in_channels, block_i)
    program = tl.program_id(0)
    tile_i = program % tiles_i
    tile_o = program // tiles_i % tiles_o
    group = program // tiles_i // tiles_o % groups
    share = program // tiles_i // tiles_o // groups

    if single_tap:
        tap = tile_i // tiles_c
        c = tile_i % tiles_c * block_i + tl.arange(0, block_i)  # [block_i]
        inside_i = c < in_channels
    else:
        i = tile_i * block_i + tl.arange(0, block_i)
        tap = i // in_channels  # [block_i]
        c = i % in_channels
        inside_i = i < kernel_size * in_channels
    tap_z = tap // kernel_width // kernel_height * dilation_z
    tap_y = tap // kernel_width % kernel_height * dilation_y
    tap_x = tap % kernel_width * dilation_x
    offsets_a = ((tap_z * height + tap_y) * width + tap_x) * (in_channels * groups) + group * in_channels + c
    column = tap * in_channels + c
    if not single_tap:
        tap_z, tap_y, tap_x = tap_z[None, :], tap_y[None, :], tap_x[None, :]

    o = tile_o * block_o + tl.arange(0, block_o)  # [block_o]
    t = tl.arange(0, block_t)  # [block_t]
    offsets_g = group * out_channels + o[:, None] + t[None, :] * (out_channels * groups)  # [block_o, block_t]
    inside_o = (o < out_channels)[:, None]
    rows = samples * out_depth * out_height * out_width
    first_x, first_y, first_z, first_b = first_position(t, out_width, out_height, out_depth)
    x, y, z, b = first_x, first_y, first_z, first_b

    total = tl.zeros((block_o, block_i), tl.float32)
    product = tl.zeros((block_o, block_i), tl.float32)
    total_bias = tl.zeros((block_o, 16), tl.float32)
    product_bias = tl.zeros((block_o, 16), tl.float32)
    n = share * terms_per_share
    start = 0
    for _ in range((tl.minimum(n + terms_per_share, terms) - n) * tl.cdiv(rows, block_t)):
        inside_t = start + t < rows
        first = (n.to(tl.int64) * rows + start) * (out_channels * groups)
        g = tl.load(gradients + first + offsets_g, mask=inside_o & inside_t[None, :], other=0.0)

        in_z = z * stride_z - padding_z  # [block_t], under the first tap
        in_y = y * stride_y - padding_y
        in_x = x * stride_x - padding_x
        pixel = (((n.to(tl.int64) * samples + b) * depth + in_z) * height + in_y) * width + in_x
        inside = within(in_z[:, None] + tap_z, depth) & within(in_y[:, None] + tap_y, height)
        inside &= within(in_x[:, None] + tap_x, width) & inside_t[:, None]
        pixels = inputs + pixel[:, None] * (in_channels * groups) + offsets_a[None, :]  # [block_t, block_i]
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

    row = (share.to(tl.int64) * groups + group) * out_channels + o
    tl.store(
        partial + row[:, None] * (kernel_size * in_channels) + column[None, :], total, mask=inside_o & inside_i[None, :]
    )
    if partial_bias is not None and tile_i == 0:
        tl.store(partial_bias + row, tl.sum(total_bias, 1) / 16, mask=o < out_channels)


@triton.jit(do_not_specialize=["terms", "units", "terms_per_share", *GEOMETRY])
def accumulate_depthwise_kernel(
    partial,  # [shares, C, kernel_size] float32
    partial_bias,  # [shares, C] float32, or None
    inputs,  # [N · samples, depth, height, width, C]
    gradients,  # [N · samples, out_depth, out_height, out_width, C]
    weights,  # [N] float32, or None
    terms,  # N
    units,  # C / align
    terms_per_share,  # how many n a program takes
    samples,
    kernel_size,
    kernel_height,
    kernel_width,
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
    """Compute one tile of [C, kernel_size] of a depthwise convolution over one share of the n."""
    channels = units * align
    tiles_tap, tiles_c = tl.cdiv(kernel_size, block_tap), tl.cdiv(channels, block_c)
    program = tl.program_id(0)
    tile_tap = program % tiles_tap
    tile_c = program // tiles_tap % tiles_c
    share = program // tiles_tap // tiles_c

    c = tile_c * block_c + tl.arange(0, block_c)  # [block_c]
    tap = tile_tap * block_tap + tl.arange(0, block_tap)  # [block_tap]
    t = tl.arange(0, block_t)  # [block_t]
    inside_c, inside_tap = c < channels, tap < kernel_size
    tap_z = tap // kernel_width // kernel_height * dilation_z
    tap_y = tap // kernel_width % kernel_height * dilation_y
    tap_x = tap % kernel_width * dilation_x
    offsets_tap = ((tap_z * height + tap_y) * width + tap_x) * channels
    rows = samples * out_depth * out_height * out_width
    first_x, first_y, first_z, first_b = first_position(t, out_width, out_height, out_depth)

    total = tl.zeros((block_tap, block_c), tl.float32)
    total_bias = tl.zeros((block_c,), tl.float32)
    first = share * terms_per_share
    for n in range(first, tl.minimum(first + terms_per_share, terms)):
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
    tl.store(partial + row[None, :] * kernel_size + tap[:, None], total, mask=mask)
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
        reference.accumulate_conv(
            sums, inputs, gradients, samples, stride, padding, dilation, groups, square, weights, bias
        )
        return
    out, in_channels, *kernel = sums.shape[1:]
    out_channels, kernel_size = out // groups, math.prod(kernel)
    terms = inputs.shape[0] // samples
    rows = samples * gradients[0, 0].numel()
    size, out_size = inputs.shape[2:], gradients.shape[2:]
    inputs, gradients = (operand(x.movedim(1, -1)) for x in (inputs, gradients))

    depthwise = in_channels == out_channels == 1
    widths = (out,) if depthwise else (out_channels, in_channels)
    align = ALIGN if all(width % ALIGN == 0 for width in widths) else 1
    multiply = multiplication(inputs.dtype)
    shape = "depthwise" if depthwise else shape_class(out_channels, kernel_size * in_channels, rows, align)
    tile = tile_for("accumulate_conv", sums, multiply, shape)
    tiles_i = triton.cdiv(kernel_size * in_channels, tile.block_i)
    tiles_by_tap = kernel_size * triton.cdiv(in_channels, tile.block_i)
    single_tap = align > 1 and 4 * tiles_by_tap <= 5 * tiles_i  # cheaper masks are worth a quarter more columns
    if depthwise:
        tiles = triton.cdiv(out, tile.block_o) * tiles_i
    else:
        tiles = groups * triton.cdiv(out_channels, tile.block_o) * (tiles_by_tap if single_tap else tiles_i)
    steps = triton.cdiv(rows, tile.block_t)
    terms_per_share = choose_terms_per_share(tile, tiles, terms, steps, out * kernel_size * in_channels, sums.device)
    shares = triton.cdiv(terms, terms_per_share)
    partial = sums.new_empty(shares, out, kernel_size * in_channels)
    partial_bias = None if bias is None else sums.new_empty(shares, out)
    geometry = (
        kernel_size,
        *in_three_dimensions(kernel, 1)[1:],
        *in_three_dimensions(size, 1),
        *in_three_dimensions(out_size, 1),
        *in_three_dimensions(stride, 1),
        *in_three_dimensions(padding, 0),
        *in_three_dimensions(dilation, 1),
    )
    launch = {
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "block_t": tile.block_t,
        "square": square,
        "align": align,
    }

    with torch.cuda.device(sums.device) if sums.is_cuda else nullcontext():
        for k in range(sums.shape[0]):
            tensors = (partial, partial_bias, inputs, gradients, None if weights is None else weights[k].contiguous())
            if depthwise:
                accumulate_depthwise_kernel[(tiles * shares,)](
                    *tensors,
                    terms,
                    out // align,
                    terms_per_share,
                    samples,
                    *geometry,
                    block_c=tile.block_o,
                    block_tap=tile.block_i,
                    **launch,
                )
            else:
                accumulate_conv_kernel[(tiles * shares,)](
                    *tensors,
                    terms,
                    out_channels // align,
                    in_channels // align,
                    terms_per_share,
                    samples,
                    groups,
                    *geometry,
                    single_tap=single_tap,
                    precision="ieee" if multiply == "ieee" else "tf32",
                    block_o=tile.block_o,
                    block_i=tile.block_i,
                    **launch,
                )
            sums[k] += partial.sum(0).view(out, *kernel, in_channels).movedim(-1, 1)
            if bias is not None and partial_bias is not None:
                bias[k] += partial_bias.sum(0)
