"""Shared parts of the two product kernels: the tile of a shape, the number of shares of the n, and |·| or (·)².

A tile [block_o, block_i] is kept twice in float32 registers, the sum over t and the sum over n: 128 × 128 with 8 warps
is as large as fits. TABLE was chosen by reading what the compiler makes of it (no spills, loads that run ahead, wgmma
on compute capability 9) and by the padding it costs. NOT YET MEASURED on a GPU: `benchmarks/studies/tune_tiles.py`
measures the candidates there and prints the table to put here. Nothing is tuned while a program runs.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import interpreted

PARTIAL_BYTES = 64 * 2**20  # of partial sums, at most
SHARE_STEPS = 16  # what starting a program and storing its sums costs, in steps of its loop; an estimate
INTERPRETED_PROCESSORS = 4  # stands for the multiprocessors of a GPU
ALIGN = 8  # widths that are multiples of this are read in whole 16-byte words


class Tile(NamedTuple):
    """A program's part of [O, I], how many t a step of its loop takes, its warps, and how many steps are in flight."""

    block_o: int
    block_i: int
    block_t: int
    warps: int
    stages: int


# (operation, major compute capability, how operands multiply) → class of shape (`shape_class`) → tile; a class that is
# not listed gets "long". The blocks of "depthwise" are channels, taps and t. 9 is Hopper; 8 fits into the 99 KiB of
# shared memory of smaller GPUs and serves all others.
TABLE: dict[tuple[str, int, str], dict[str, Tile]] = {
    ("accumulate_linear", 8, "half"): {
        "long": Tile(128, 128, 32, 8, 4),
        "short": Tile(128, 64, 32, 4, 4),
        "tiny": Tile(128, 64, 16, 4, 4),
        "narrow": Tile(32, 64, 64, 4, 4),
    },
    ("accumulate_linear", 8, "tf32"): {
        "long": Tile(128, 128, 16, 8, 3),
        "short": Tile(64, 64, 32, 4, 3),
        "tiny": Tile(64, 64, 16, 4, 3),
        "narrow": Tile(32, 64, 32, 4, 3),
    },
    ("accumulate_linear", 8, "ieee"): {
        "long": Tile(128, 64, 16, 8, 3),
        "narrow": Tile(16, 64, 16, 4, 3),
    },
    ("accumulate_linear", 9, "half"): {
        "even": Tile(128, 128, 64, 8, 4),
        "long": Tile(128, 128, 32, 8, 4),
        "short": Tile(128, 64, 32, 4, 4),
        "tiny": Tile(128, 64, 16, 4, 4),
        "narrow": Tile(32, 64, 64, 4, 4),
    },
    ("accumulate_linear", 9, "tf32"): {
        "long": Tile(128, 128, 16, 8, 3),
        "short": Tile(64, 64, 32, 4, 3),
        "tiny": Tile(64, 64, 16, 4, 3),
        "narrow": Tile(32, 64, 32, 4, 3),
    },
    ("accumulate_linear", 9, "ieee"): {
        "long": Tile(128, 64, 16, 8, 3),
        "narrow": Tile(16, 64, 16, 4, 3),
    },
    ("accumulate_conv", 8, "half"): {
        "long": Tile(128, 128, 32, 8, 4),
        "short": Tile(64, 64, 32, 4, 4),
        "tiny": Tile(128, 64, 16, 4, 4),
        "narrow": Tile(32, 64, 64, 4, 4),
        "odd": Tile(64, 64, 16, 8, 3),
        "odd narrow": Tile(16, 64, 16, 4, 3),
        "depthwise": Tile(64, 4, 8, 8, 3),
    },
    ("accumulate_conv", 8, "tf32"): {
        "long": Tile(128, 128, 16, 8, 3),
        "short": Tile(64, 64, 16, 4, 3),
        "narrow": Tile(32, 64, 32, 4, 3),
        "odd": Tile(64, 32, 16, 4, 3),
        "odd narrow": Tile(16, 64, 16, 4, 3),
        "depthwise": Tile(64, 4, 8, 8, 3),
    },
    ("accumulate_conv", 8, "ieee"): {
        "long": Tile(128, 64, 16, 8, 3),
        "narrow": Tile(16, 64, 16, 4, 3),
        "odd": Tile(64, 64, 16, 8, 3),
        "odd narrow": Tile(16, 64, 16, 4, 3),
        "depthwise": Tile(64, 4, 8, 8, 3),
    },
    ("accumulate_conv", 9, "half"): {
        "long": Tile(128, 128, 32, 8, 4),
        "short": Tile(128, 64, 32, 4, 4),
        "tiny": Tile(128, 64, 16, 4, 4),
        "narrow": Tile(32, 64, 64, 4, 4),
        "odd": Tile(64, 64, 16, 8, 3),
        "odd narrow": Tile(16, 64, 16, 4, 3),
        "depthwise": Tile(64, 4, 8, 8, 3),
    },
    ("accumulate_conv", 9, "tf32"): {
        "long": Tile(128, 128, 16, 8, 3),
        "short": Tile(64, 64, 32, 4, 3),
        "narrow": Tile(32, 64, 32, 4, 3),
        "odd": Tile(64, 32, 16, 4, 3),
        "odd narrow": Tile(16, 64, 16, 4, 3),
        "depthwise": Tile(64, 4, 8, 8, 3),
    },
    ("accumulate_conv", 9, "ieee"): {
        "long": Tile(128, 64, 16, 8, 3),
        "narrow": Tile(16, 64, 16, 4, 3),
        "odd": Tile(64, 64, 16, 8, 3),
        "odd narrow": Tile(16, 64, 16, 4, 3),
        "depthwise": Tile(64, 4, 8, 8, 3),
    },
}


def shape_class(out_features: int, in_features: int, rows: int, align: int) -> str:
    """The class of shapes, a key of TABLE, of [out_features, in_features] sums over `rows` t each."""
    if align == 1:  # one load per element
        return "odd narrow" if out_features <= 16 else "odd"
    if out_features <= 32:
        return "narrow"
    if rows <= 16:
        return "tiny"
    if rows <= 64 or in_features <= 64:  # two programs on a multiprocessor: one adds up while the other multiplies
        return "short"
    return "even" if rows % 64 == 0 or rows >= 512 else "long"


def tile_for(op: str, sums: Tensor, multiply: str, shape: str) -> Tile:
    """The tile of a class of shapes on the device of the sums."""
    hopper = sums.is_cuda and torch.cuda.get_device_capability(sums.device)[0] == 9
    row = TABLE[op, 9 if hopper else 8, multiply]
    return row.get(shape, row["long"])


def multiplication(dtype: torch.dtype) -> str:
    """How operands multiply: "half", or float32 as "ieee" or "tf32" by torch.set_float32_matmul_precision()."""
    if dtype in (torch.float16, torch.bfloat16):
        return "half"
    # Newer versions of PyTorch have a second way to set it, and then refuse to answer by the first.
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if precision is None:
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return "tf32" if precision == "tf32" else "ieee"


def operand(tensor: Tensor) -> Tensor:
    """The tensor as a kernel reads it: contiguous, 16-byte aligned, of a dtype that it multiplies."""
    multiplied = {torch.float16, torch.bfloat16, torch.float32}
    if interpreted():
        multiplied.remove(torch.bfloat16)  # NumPy has none; float32 holds it exactly
    tensor = (tensor if tensor.dtype in multiplied else tensor.float()).contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def choose_terms_per_share(tile: Tile, tiles: int, terms: int, steps: int, size: int, device: torch.device) -> int:
    """How many of the `terms` n one program takes, so that the programs fill the GPU's multiprocessors.

    Args:
        tile: The tile of each program.
        tiles: Programs that cover the sums once; each takes `steps` steps for one n.
        terms: N, all of them.
        steps: Steps over t for one n.
        size: Elements of the sums; every share of the n stores as many.
        device: Of the sums.
    """
    processors = INTERPRETED_PROCESSORS
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    return _choose_terms_per_share(processors * (8 // tile.warps), tiles, terms, steps, PARTIAL_BYTES // (4 * size))


@functools.lru_cache(maxsize=4096)
def _choose_terms_per_share(slots: int, tiles: int, terms: int, steps: int, most: int) -> int:
    def time(shares: int) -> int:
        return triton.cdiv(tiles * shares, slots) * (triton.cdiv(terms, shares) * steps + SHARE_STEPS)

    most = max(1, min(most, terms, 8 * slots // tiles))
    return triton.cdiv(terms, min(range(1, most + 1), key=time))


@triton.jit
def add_size(total, product, weights, n, square: tl.constexpr):
    """Add w[n] · |product|, or w[n] · product², to total."""
    size = product * product if square else tl.abs(product)
    if weights is not None:
        size *= tl.load(weights + n)
    return total + size
