"""Measures the candidate tiles of the Triton products on this CUDA GPU and prints the table for kernels/tiles.py.

tune_tiles.py [--ops OP ...] [--multiply half|tf32|ieee ...] [--milliseconds 20]

Every candidate runs the shapes of its class; one whose result differs from the committed tile's, or that does not fit
the GPU, is left out with a message. The best is the one with the smallest product of medians. Each row of the
table is printed as soon as it is known, after the times of its candidates as comments.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from potion_fast import ops

# Class of shape → shapes. Linear: N, T, I, O. Convolution: N, C, O, height and width, kernel, groups.
SHAPES: dict[str, dict[str, list[tuple[int, ...]]]] = {
    "accumulate_linear": {
        "even": [(32, 1024, 768, 3072), (128, 256, 768, 768)],
        "long": [(128, 197, 768, 768), (128, 197, 768, 3072), (128, 197, 3072, 768)],
        "short": [(256, 50, 768, 3072), (128, 197, 64, 768)],
        "tiny": [(512, 16, 768, 768)],
        "narrow": [(128, 197, 768, 32)],
    },
    "accumulate_conv": {
        "long": [
            (128, 256, 256, 14, 3, 1),
            (128, 128, 128, 28, 3, 1),
            (64, 64, 256, 28, 1, 1),
            (128, 64, 64, 32, 3, 1),
        ],
        "short": [(256, 512, 512, 7, 3, 1)],
        "tiny": [(512, 512, 512, 4, 3, 1)],
        "narrow": [(256, 16, 16, 32, 3, 1), (256, 32, 32, 32, 3, 1)],
        "odd": [(256, 3, 64, 32, 3, 1), (32, 3, 64, 112, 7, 1)],
        "odd narrow": [(64, 128, 128, 28, 3, 32)],
        "depthwise": [(128, 96, 96, 56, 7, 96), (128, 192, 192, 28, 3, 192)],
    },
}
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}


def candidates(multiply: str, shape: str) -> list[tuple[int, int, int, int, int]]:
    """Tiles (block_o, block_i, block_t, warps, stages) that fit beside two float32 accumulators."""
    if shape == "depthwise":  # channels, taps, t
        blocks = itertools.product((32, 64, 128), (2, 4, 8), (4, 8, 16), (4, 8))
        return [(c, tap, t, warps, 3) for c, tap, t, warps in blocks if c * tap * t <= 512 * warps]
    if shape == "odd narrow" or (multiply == "ieee" and shape == "narrow"):
        blocks = [(16, 32, 4), (16, 64, 4), (16, 128, 4), (16, 128, 8)]
    elif shape == "narrow":
        blocks = [(16, 128, 4), (32, 64, 4), (32, 128, 4), (32, 128, 8), (64, 64, 4)]
    elif shape == "odd" or multiply == "ieee":
        blocks = [(64, 32, 4), (64, 32, 8), (64, 64, 4), (64, 64, 8), (128, 64, 8)]
    else:
        blocks = [(64, 64, 4), (64, 128, 4), (128, 64, 4), (128, 64, 8), (64, 128, 8), (128, 128, 8)]
    depths = (16,) if shape == "tiny" else (16, 32) if multiply != "half" or "odd" in shape else (32, 64)
    return [(o, i, t, warps, stages) for (o, i, warps), t, stages in itertools.product(blocks, depths, (3, 4))]


def calls(op: str, multiply: str, shape: str) -> list[tuple[Tensor, Callable[[], None]]]:
    """For each shape of the class, the sums and the call that adds to them."""
    pairs = []
    options = {"dtype": DTYPES[multiply], "device": "cuda"}
    for case in SHAPES[op][shape]:
        generator = torch.Generator("cuda").manual_seed(0)
        if op == "accumulate_linear":
            n, t, into, out = case
            inputs = torch.randn(n, t, into, generator=generator, **options)
            gradients = torch.randn(n, t, out, generator=generator, **options)
            sums = torch.zeros(1, out, into, device="cuda")
            pairs.append((sums, _linear(sums, inputs, gradients)))
        else:
            n, channels, out, size, kernel, groups = case
            inputs = torch.randn(n, size, size, channels, generator=generator, **options).movedim(-1, 1)
            gradients = torch.randn(n, size, size, out, generator=generator, **options).movedim(-1, 1)
            sums = torch.zeros(1, out, channels // groups, kernel, kernel, device="cuda")
            pairs.append((sums, _conv(sums, inputs, gradients, kernel // 2, groups)))
    return pairs


def _linear(sums: Tensor, inputs: Tensor, gradients: Tensor) -> Callable[[], None]:
    return lambda: ops.accumulate_linear(sums, inputs, gradients)


def _conv(sums: Tensor, inputs: Tensor, gradients: Tensor, padding: int, groups: int) -> Callable[[], None]:
    return lambda: ops.accumulate_conv(
        sums, inputs, gradients, 1, [1, 1], [padding, padding], [1, 1], groups, False, None, None
    )


def tune(op: str, multiply: str, shape: str, row: dict[str, tuple[int, ...]], milliseconds: int) -> tuple[int, ...]:
    """The fastest right tile of a class; `row` is the row of the table that the operation reads."""
    from triton.testing import do_bench

    from potion_fast.kernels.tiles import Tile

    committed = row.get(shape, row["long"])
    cases = calls(op, multiply, shape)
    wanted = [once(sums, call) for sums, call in cases]
    best, best_time = committed, math.inf
    for tile in dict.fromkeys([tuple(committed), *candidates(multiply, shape)]):
        row[shape] = Tile(*tile)
        try:
            off = max(
                ((once(*case) - want).norm() / want.norm()).item() for case, want in zip(cases, wanted, strict=True)
            )
            if not off < 1e-3:
                print(f"    # {tile}: left out, its result differs by {off:.1e}", flush=True)
                continue
            times = [do_bench(call, warmup=milliseconds // 4, rep=milliseconds, quantiles=[0.5]) for _, call in cases]
        except Exception as error:  # what does not fit this GPU is no candidate
            print(f"    # {tile}: left out, {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"    # {tile}: " + ", ".join(f"{time:.4f} ms" for time in times), flush=True)
        if math.prod(times) < best_time:
            best, best_time = tile, math.prod(times)
    row[shape] = Tile(*best)
    return best


def once(sums: Tensor, call: Callable[[], None]) -> Tensor:
    sums.zero_()
    call()
    return sums.clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--multiply", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--milliseconds", type=int, default=20, help="spent on measuring one shape with one tile")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tune_tiles.py measures on a CUDA GPU, and PyTorch sees none here.")
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("tune_tiles.py measures compiled kernels; unset TRITON_INTERPRET.")
    if problem := ops.missing("triton", torch.device("cuda")):
        sys.exit(f"tune_tiles.py cannot run the Triton kernels: {problem}.")

    from potion_fast.kernels.tiles import TABLE

    os.environ["POTION_FAST_BACKEND"] = "triton"
    major, minor = torch.cuda.get_device_capability()
    print(f"# {torch.cuda.get_device_name()}, compute capability {major}.{minor}, torch {torch.__version__}")
    for op, multiply in itertools.product(options.ops, options.multiply):
        torch.set_float32_matmul_precision("highest" if multiply == "ieee" else "high")
        key = (op, 9 if major == 9 else 8, multiply)
        print(f'    ("{key[0]}", {key[1]}, "{key[2]}"): {{', flush=True)
        for shape in SHAPES[op]:
            tile = tune(op, multiply, shape, TABLE[key], options.milliseconds)
            print(f'        "{shape}": Tile{tuple(tile)},', flush=True)
        print("    },", flush=True)


if __name__ == "__main__":
    main()
