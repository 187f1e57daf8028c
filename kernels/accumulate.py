"""sums += |g| or g², over a list of gradients in one launch.

12 bytes per float32 parameter: memory bandwidth is the floor. A table on the device says where each gradient lies; a
program takes one tile of one gradient. Rounding is that of the reference: no fma.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit(do_not_specialize=["tensors"])
def accumulate_kernel(
    sums,  # [n] float32 or float64
    table,  # [3, tensors + 1] int64: address, start in the flat buffer, first tile
    tensors,
    square: tl.constexpr,
    block: tl.constexpr,
):
    """Add one tile of one gradient to the sums; the program finds its gradient by bisection of the table."""
    tile = tl.program_id(0)
    tensor = 0  # the last one with first_tile <= tile
    after = tensors
    while after - tensor > 1:
        middle = (tensor + after) // 2
        here = tl.load(table + 2 * (tensors + 1) + middle) <= tile
        tensor = tl.where(here, middle, tensor)
        after = tl.where(here, after, middle)
    address = tl.load(table + tensor)
    start = tl.load(table + (tensors + 1) + tensor)
    size = tl.load(table + (tensors + 1) + tensor + 1) - start
    first_tile = tl.load(table + 2 * (tensors + 1) + tensor)

    offsets = (tile - first_tile) * block + tl.arange(0, block)  # [block] int64
    inside = offsets < size
    gradient = tl.load(address.to(tl.pointer_type(sums.dtype.element_ty)) + offsets, mask=inside)
    total = tl.load(sums + start + offsets, mask=inside)
    if square:
        total += gradient * gradient
    else:
        total += tl.abs(gradient)
    tl.store(sums + start + offsets, total, mask=inside)


def accumulate(sums: Tensor, gradients: list[Tensor], square: bool) -> None:
    """As `potion_fast.ops.reference.accumulate`; the gradients are contiguous. Checked by `potion_fast.ops`."""
    table = launch_table(gradients)
    tiles = int(table[2, -1])
    if tiles == 0:
        return
    with torch.cuda.device(sums.device) if sums.is_cuda else nullcontext():
        accumulate_kernel[(tiles,)](
            sums, table.to(sums.device), len(gradients), square=square, block=BLOCK, enable_fp_fusion=False
        )


def launch_table(gradients: list[Tensor]) -> Tensor:
    """[3, tensors + 1] int64: address, start in the flat buffer, first tile; the last column holds the totals."""
    columns = [(0, 0, 0)]
    for gradient in gradients:
        _, start, tile = columns[-1]
        columns[-1] = (gradient.data_ptr(), start, tile)
        columns.append((0, start + gradient.numel(), tile + triton.cdiv(gradient.numel(), BLOCK)))
    return torch.tensor(columns, dtype=torch.int64).T.contiguous()
