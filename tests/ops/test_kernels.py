"""The GPU kernels without a GPU: Triton interprets, CUDA and Triton compile without spills.

The CUDA kernels run on the host in test_cuda_on_cpu.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from potion_fast import ops
from potion_fast.ops import _ratios, reference

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def run(command: list[str | Path], **environment: str) -> str:
    """Standard output and error of a command that must succeed."""
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


# --- Triton's interpreter: the products, one case per kind of tile and of launch ---


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    """float32 sums of float32 products against the same in float64; NaN never passes."""
    assert (got.double() - want).norm() <= 1e-6 * want.norm()


def totals(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9))


interpreter = pytest.mark.skipif(bool(ops.missing("triton", torch.device("cpu"))), reason="needs Triton's interpreter")


@interpreter
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize(
    ("terms", "rows", "into", "out", "dtype"),
    [
        (3, 197, 72, 40, torch.float32),
        (5, 3, 136, 72, torch.bfloat16),
        (4, 33, 40, 130, torch.float16),
        (2, 65, 147, 10, torch.float32),
        (9, 1, 1, 1, torch.float64),
    ],
)
def test_triton_linear_in_the_interpreter(
    terms: int, rows: int, into: int, out: int, dtype: torch.dtype, square: bool
) -> None:
    from potion_fast.kernels.accumulate_linear import accumulate_linear

    torch.manual_seed(0)
    inputs, gradients = torch.randn(terms, rows, into).to(dtype), torch.randn(terms, rows, out).to(dtype)
    weights = torch.rand(terms, 3).T  # a row of it is not contiguous
    sums, bias = totals((3, out, into)), totals((3, out))
    want, want_bias = sums.double(), bias.double()
    accumulate_linear(sums, inputs, gradients, square, weights, bias)
    reference.accumulate_linear(want, inputs, gradients, square, weights.double(), want_bias)
    assert_close(sums, want)
    assert_close(bias, want_bias)


@interpreter
@pytest.mark.parametrize(
    ("terms", "samples", "channels", "out", "groups", "size", "kernel", "stride", "padding", "dilation", "dtype"),
    [
        (3, 1, 3, 5, 1, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1), torch.float32),
        (3, 3, 8, 16, 1, (7, 6), (3, 3), (2, 1), (1, 2), (2, 1), torch.float32),
        (2, 3, 72, 40, 1, (5, 7), (1, 1), (2, 2), (0, 0), (1, 1), torch.bfloat16),
        (2, 1, 144, 8, 1, (3, 4), (2, 2), (1, 1), (1, 1), (1, 1), torch.float16),
        (4, 3, 12, 8, 4, (11,), (4,), (3,), (2,), (2,), torch.float32),
        (2, 1, 32, 64, 2, (5, 6), (3, 2), (1, 2), (1, 0), (1, 2), torch.float32),
        (3, 3, 5, 6, 1, (4, 5, 6), (2, 3, 2), (1, 2, 1), (1, 0, 1), (2, 1, 1), torch.float32),
        (3, 3, 8, 8, 8, (7, 5), (3, 3), (2, 1), (3, 1), (1, 2), torch.bfloat16),
        (3, 1, 67, 67, 67, (4, 3, 4), (2, 1, 3), (1, 2, 1), (1, 0, 1), (2, 1, 1), torch.float32),
        (3, 1, 4, 8, 4, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), torch.float32),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_triton_conv_in_the_interpreter(
    terms: int,
    samples: int,
    channels: int,
    out: int,
    groups: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    from potion_fast.kernels.accumulate_conv import accumulate_conv

    torch.manual_seed(0)
    geometry = (stride, padding, dilation, groups)
    forward = (torch.conv1d, torch.conv2d, torch.conv3d)[len(size) - 1]
    inputs = torch.randn(terms * samples, channels, *size).to(dtype)
    outputs = forward(inputs.float(), torch.zeros(out, channels // groups, *kernel), None, *geometry)
    gradients = torch.randn(outputs.shape).to(dtype)
    weights = torch.rand(2, terms)
    sums, bias = totals((2, out, channels // groups, *kernel)), totals((2, out))
    want, want_bias = sums.double(), bias.double()
    square = groups > 1
    accumulate_conv(sums, inputs, gradients, samples, *geometry, square, weights, bias)
    reference.accumulate_conv(want, inputs, gradients, samples, *geometry, square, weights.double(), want_bias)
    assert_close(sums, want)
    assert_close(bias, want_bias)


@interpreter
@pytest.mark.parametrize("tiles", [1, 36, 10_000])
@pytest.mark.parametrize("terms", [1, 7, 128, 4096])
def test_shares_cover_all_terms_and_stay_within_their_memory(terms: int, tiles: int) -> None:
    from potion_fast.kernels import tiles as choice

    size = tiles * 128 * 128
    tile = choice.Tile(128, 128, 32, 8, 4)
    terms_per_share = choice.choose_terms_per_share(tile, tiles, terms, 7, size, torch.device("cpu"))
    shares = -(-terms // terms_per_share)
    assert 1 <= terms_per_share <= terms and shares * terms_per_share >= terms > (shares - 1) * terms_per_share
    assert shares == 1 or 4 * size * shares <= choice.PARTIAL_BYTES


# --- On a GPU: sizes that the tests of the operations do not reach ---

gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or bool(ops.missing("cuda", torch.device("cuda"))),
    reason="needs a CUDA GPU and a build with nvcc",
)


@gpu
@pytest.mark.parametrize("n", [1 << 22, 5_000_011])
@pytest.mark.parametrize("dampening", [0.0, 1.0])
def test_groups_of_the_kept_on_a_gpu(n: int, dampening: float) -> None:
    """Enough weights that the percentiles are looked up among a few, which the host's emulation does at small sizes."""
    generator = torch.Generator("cuda").manual_seed(0)
    forget, retain = (torch.randn(n, device="cuda", generator=generator).exp() for _ in range(2))
    forget[::100] = retain[::100] = 0
    retain[::1001] = 0
    percentiles = [99.96 - 4.96 * k / 31 for k in range(32)]
    assert _ratios.capacities(n, 0.05)[0] > 0
    got = ops.select_and_partition(forget, retain, percentiles, dampening)
    for g, w in zip(got, reference.select_and_partition(forget, retain, percentiles, dampening), strict=True):
        assert g.dtype == w.dtype and torch.equal(g, w)


@gpu
@pytest.mark.parametrize("alphas", [[2.0, 0.5], [2.0, 0.0]], ids=["kept", "all"])
def test_more_than_2_31_weights_on_a_gpu(alphas: list[float]) -> None:
    n, tail = 2**31 + 70_001, 100_000
    if torch.cuda.mem_get_info()[0] < 12 * n:
        pytest.skip("needs 26 GB of GPU memory")
    forget, retain = torch.zeros(n, device="cuda"), torch.ones(n, device="cuda")
    forget[-tail:] = torch.rand(tail, device="cuda") * 4
    got = ops.partition(forget, retain, torch.tensor(alphas, device="cuda"))
    want = reference.partition(forget[-tail:], retain[-tail:], torch.tensor(alphas, device="cuda"), 1.0)
    assert got[0].dtype == torch.int64 and torch.equal(got[0], want[0].long() + n - tail)
    assert all(torch.equal(g, w) for g, w in zip(got[1:], want[1:], strict=True))


# --- Compile checks ---


def assert_rounds_as_the_reference(ptx: Path) -> None:
    """No fma, no flush to zero, and IEEE division."""
    code = ptx.read_text()
    assert not re.search(r"\bfma\.|\.ftz\b|\bdiv\.(full|approx)", code), ptx.name
    if ptx.name.startswith(("dampen", "compact", "select", "partition")):
        assert "div.rn.f32" in code
        assert re.search(r"setp\.\w+\.f32", code)


CUDA_VARIANTS = {  # of the kernels whose number of template instances is known
    "accumulate": 4,
    "bound": 1,
    "compact": 1,
    "dampen": 1,
    "dampen_many": 1,
    "digit": 3,
    "exclusive_scan": 1,
    "lowest_alpha": 1,
    "pick": 3,
    "probe": 1,
    "put": 4,
    "sample": 1,
    "sizes": 2,
    "write": 4,
}


def cuda_kernels() -> set[str]:
    """The kernels of csrc/cuda, without the ending `_kernel`."""
    sources = [path.read_text() for path in (ROOT / "csrc/cuda").glob("*.cu")]
    return {name for source in sources for name in re.findall(r"__global__[^;{]*?\b(\w+)_kernel\(", source)}


@pytest.mark.gpu_code
def test_cuda_compiles_without_spills(tmp_path: Path, record: Callable[[str], None]) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    pybind11 = run([sys.executable, "-m", "pybind11", "--cmakedir"]).strip()
    options = [
        "-DPOTION_FAST_CUDA=ON",
        "-DPOTION_FAST_PTXAS_INFO=ON",
        f"-Dpybind11_DIR={pybind11}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_CUDA_FLAGS=--keep --keep-dir={tmp_path}",
    ]
    run([sys.executable, "-m", "cmake", "-S", ROOT, "-B", tmp_path, *options])
    report = run([sys.executable, "-m", "cmake", "--build", tmp_path, "--target", "potion_cuda"])
    kernels = re.findall(
        r"Compiling entry function '(\w+)' for '(sm_\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert {architecture for _, architecture, *_ in kernels} >= {"sm_80", "sm_90"}
    for name, architecture, stack, stores, loads, registers in kernels:
        record(f"CUDA   {architecture:<8}{registers:>4} registers  {name}")
        assert (stack, stores, loads) == ("0", "0", "0"), f"{name} spills on {architecture}"
    names = {name for name, *_ in kernels}
    assert cuda_kernels() >= set(CUDA_VARIANTS)
    compiled = 0
    for stem in cuda_kernels():
        variants = sum(bool(re.search(rf"\d{stem}_kernel", name)) for name in names)
        assert variants == CUDA_VARIANTS.get(stem, variants) and variants > 0, stem
        compiled += variants
    assert compiled == len(names)
    for ptx in tmp_path.glob("*.ptx"):
        assert_rounds_as_the_reference(ptx)


TRITON = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from potion_fast.kernels.accumulate import accumulate_kernel
from potion_fast.kernels.dampen import dampen_kernel

flat = dict(weights="*fp32", forget="*fp32", retain="*fp32", n="i64", alpha="fp32", dampening="fp32", block="constexpr")
kernels = {"dampen": (dampen_kernel, flat, {"block": 1024})}
for square in (False, True):
    for dtype in ("fp32", "fp64"):
        signature = dict(sums="*" + dtype, table="*i64", tensors="i32", square="constexpr", block="constexpr")
        kernels[f"accumulate_{dtype}_{square}"] = (accumulate_kernel, signature, {"square": square, "block": 1024})
for architecture in (80, 90):
    for name, (function, signature, constants) in kernels.items():
        compiled = triton.compile(ASTSource(function, signature, constants), GPUTarget("cuda", architecture, 32),
                                  options={"enable_fp_fusion": False})
        stem = f"{sys.argv[1]}/{name}.sm_{architecture}"
        open(stem + ".ptx", "w").write(compiled.asm["ptx"])
        open(stem + ".cubin", "wb").write(compiled.asm["cubin"])
"""


@pytest.mark.gpu_code
def test_triton_compiles_without_spills_and_rounds_as_the_reference(
    tmp_path: Path, record: Callable[[str], None]
) -> None:
    triton = pytest.importorskip("triton")
    run([sys.executable, "-c", TRITON, tmp_path])
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    cubins = sorted(tmp_path.glob("*.cubin"))
    assert len(cubins) == 10
    for cubin in cubins:
        usage = run([tools / "cuobjdump", "--dump-resource-usage", cubin])
        registers, stack, local = (int(re.search(rf"\b{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
        record(f"Triton {cubin.stem.split('.')[1]:<8}{registers:>4} registers  {cubin.stem}")
        assert (stack, local) == (0, 0), f"{cubin.stem} spills"
        assert_rounds_as_the_reference(cubin.with_suffix(".ptx"))


PRODUCTS = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from potion_fast.kernels.accumulate_conv import accumulate_conv_kernel, accumulate_depthwise_kernel
from potion_fast.kernels.accumulate_linear import accumulate_linear_kernel
from potion_fast.kernels.tiles import ALIGN, TABLE

folder, part = sys.argv[1], int(sys.argv[2])  # this process compiles every other variant
half = {"half": "bf16", "tf32": "fp32", "ieee": "fp32"}
variants = {}


def add(stem, kernel, major, tile, dtype, extras, **constants):
    if not extras:
        constants |= {"partial_bias": None, "weights": None}
    signature = {name: "constexpr" if name in constants else "i32" for name in kernel.arg_names}
    for name in {"partial", "partial_bias", "weights", "inputs", "gradients"} - set(constants):
        signature[name] = "*" + (dtype if name in ("inputs", "gradients") else "fp32")
    variants[f"{stem}.sm_{major}0"] = (kernel, major, tile, signature, constants)


for (op, major, multiply), shapes in TABLE.items():
    for shape, tile in shapes.items():
        if shape == "depthwise":
            blocks = {"block_c": tile.block_o, "block_tap": tile.block_i, "block_t": tile.block_t, "square": True}
            for align in (1, ALIGN):
                name = f"depthwise-{multiply}-align_{align}"
                add(name, accumulate_depthwise_kernel, major, tile, half[multiply], True, align=align, **blocks)
            continue
        align = 1 if "odd" in shape else ALIGN
        blocks = {"block_o": tile.block_o, "block_i": tile.block_i, "block_t": tile.block_t, "align": align}
        blocks |= {"precision": "ieee" if multiply == "ieee" else "tf32", "square": False}
        for extras in (True, False) if shape == "long" else (True,):  # weights and bias
            stem = f"{op}-{multiply}-{shape}".replace(" ", "_") + ("" if extras else "-plain")
            if op == "accumulate_linear":
                add(stem, accumulate_linear_kernel, major, tile, half[multiply], extras, **blocks)
                continue
            for single_tap in (True, False) if align > 1 else (False,):
                name = stem + ("-single_tap" if single_tap else "")
                add(name, accumulate_conv_kernel, major, tile, half[multiply], extras, single_tap=single_tap, **blocks)

for stem, (kernel, major, tile, signature, constants) in list(variants.items())[part::2]:
    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in pointers})
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, GPUTarget("cuda", 10 * major, 32), options=options)
    open(f"{folder}/{stem}.ptx", "w").write(compiled.asm["ptx"])
    open(f"{folder}/{stem}.cubin", "wb").write(compiled.asm["cubin"])
    open(f"{folder}/{stem}.json", "w").write(json.dumps({"block_o": tile.block_o, "shared": compiled.metadata.shared}))
"""


@pytest.mark.gpu_code
def test_every_tile_compiles_to_matrix_instructions_without_spills(
    tmp_path: Path, record: Callable[[str], None]
) -> None:
    triton = pytest.importorskip("triton")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: run([sys.executable, "-c", PRODUCTS, tmp_path, part]), "01"))
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    cubins = sorted(tmp_path.glob("*.cubin"))
    assert len(cubins) > 80
    for cubin in cubins:
        name, architecture = cubin.stem.rsplit(".", 1)
        usage = run([tools / "cuobjdump", "--dump-resource-usage", cubin])
        registers, stack, local = (int(re.search(rf"\b{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
        record(f"Triton {architecture:<8}{registers:>4} registers  {name}")
        assert (stack, local) == (0, 0), f"{cubin.stem} spills"
        tile = json.loads(cubin.with_suffix(".json").read_text())
        assert tile["shared"] <= 1024 * (227 if architecture == "sm_90" else 99), cubin.stem
        assert_multiplies(cubin.with_suffix(".ptx").read_text(), name, architecture, tile["block_o"])


def assert_multiplies(code: str, name: str, architecture: str, block_o: int) -> None:
    """The tensor cores are used, and loads run ahead of the products: the loop waits for all but the latest."""
    if "depthwise" in name or "ieee" in name:
        assert not re.search(r"\bw?g?mma\.", code), f"{name} must multiply exactly"
        return
    wide = architecture == "sm_90" and block_o >= 64  # wgmma takes 64 rows
    instruction = "wgmma.mma_async" if wide else "mma.sync"
    kind = "tf32.tf32" if "tf32" in name else "bf16.bf16"
    assert re.search(rf"\b{re.escape(instruction)}\.[\w.]*{re.escape(kind)}", code), f"{name} on {architecture}"
    if "odd" not in name:
        assert re.search(r"cp\.async\.wait_group\s+[1-9]", code), f"{name} on {architecture} waits for every load"
        assert not wide or "wgmma.wait_group.sync.aligned 1" in code, f"{name} waits for every product"
    assert not wide or "selp.f32" not in code, f"{name} touches an accumulator while products are under way"


@pytest.fixture
def record(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line although pytest captures output: registers are worth reading, not worth a limit."""

    def show(line: str) -> None:
        with capsys.disabled():
            print("\n" + line, end="")

    return show
