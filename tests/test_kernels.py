"""The GPU kernels without a GPU: the CUDA sources run on the host, and both kinds compile without spills."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backends import SIZES, Guarded, assert_same_bits, numbers
from potion_fast import reference

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path(__file__).resolve().parent

EXPORTS = """
extern "C" void accumulate_float(float* sums, const std::uintptr_t* addresses, const std::int64_t* sizes, int tensors,
                                 bool square) {
  potion::accumulate_cuda(sums, {{addresses, addresses + tensors}, {sizes, sizes + tensors}}, square, 0);
}
extern "C" void accumulate_double(double* sums, const std::uintptr_t* addresses, const std::int64_t* sizes, int tensors,
                                  bool square) {
  potion::accumulate_cuda(sums, {{addresses, addresses + tensors}, {sizes, sizes + tensors}}, square, 0);
}
extern "C" void dampen(float* weights, const float* forget, const float* retain, std::int64_t n, float alpha,
                       float dampening) {
  potion::dampen_cuda(weights, forget, retain, n, alpha, dampening, 0);
}
"""


def run(command: list[str | Path], **environment: str) -> str:
    """Standard output and error of a command that must succeed."""
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """csrc/cuda compiled for the host; only the launch syntax is rewritten."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    (folder / "cuda_runtime.h").write_text((TESTS / "cuda_on_cpu.h").read_text())
    for name in ("accumulate", "dampen"):
        source = (ROOT / "csrc/cuda" / f"{name}.cu").read_text()
        launch = re.compile(r"([\w<>, ]+?)<<<(\w+), (\w+), 0, [^>]+?>>>\((.*?)\);", re.DOTALL)
        source = re.sub(r"reinterpret_cast<cudaStream_t>\(stream\)>>>", "stream>>>", source)
        source, launches = launch.subn(r"launch_on_cpu(\2, \3, [&] { \1(\4); });", source)
        assert launches == source.count("launch_on_cpu(") > 0 and "<<<" not in source
        (folder / f"{name}.cpp").write_text(source)
    (folder / "all.cpp").write_text(
        '#include "accumulate.cpp"\n#define kUnroll kUnroll2\n#define kTile kTile2\n#include "dampen.cpp"\n' + EXPORTS
    )
    flags = [
        "-std=c++17",
        "-O2",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-fsanitize=undefined",
        "-fno-sanitize-recover=all",
        "-Wno-unknown-pragmas",
    ]
    run([compiler, *flags, f"-I{folder}", f"-I{ROOT / 'csrc'}", folder / "all.cpp", "-o", folder / "all.so"])
    return ctypes.CDLL(str(folder / "all.so"))


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("n", [*SIZES, 8 * 2048 - 1, 8 * 2048, 16 * 2048 + 1])
def test_cuda_dampen_on_the_host(cuda_on_cpu: ctypes.CDLL, n: int) -> None:
    weights, forget, retain = numbers(n, 1), numbers(n, 2).abs(), numbers(n, 3).abs()
    want = weights.clone()
    reference.dampen(want, forget, retain, 0.7, 1.3)
    guarded = Guarded(weights, "cpu")
    alpha, dampening = ctypes.c_float(0.7), ctypes.c_float(1.3)
    cuda_on_cpu.dampen(pointer(guarded.inside), pointer(forget), pointer(retain), ctypes.c_int64(n), alpha, dampening)
    guarded.assert_guards_intact()
    assert_same_bits(guarded.inside, want)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1],
        [0, 0, 5],
        [100_003],
        [2048] * 9,
        [2047, 2049, 0, 1],
        [3] * 200,
        [3] * 201,
        [0] * 200 + [9],
        [1] * 399 + [40_000],
    ],
    ids=lambda sizes: f"{len(sizes)}x{max(sizes, default=0)}",
)
def test_cuda_accumulate_on_the_host(
    cuda_on_cpu: ctypes.CDLL, sizes: list[int], dtype: torch.dtype, square: bool
) -> None:
    gradients = [Guarded(numbers(n, i, dtype), "cpu", shift=i % 4).inside for i, n in enumerate(sizes)]
    sums = numbers(sum(sizes), 99, dtype)
    want = sums.clone()
    reference.accumulate(want, gradients, square)
    guarded = Guarded(sums, "cpu")
    addresses = (ctypes.c_size_t * len(sizes))(*(g.data_ptr() for g in gradients))
    function = cuda_on_cpu.accumulate_float if dtype == torch.float32 else cuda_on_cpu.accumulate_double
    function(pointer(guarded.inside), addresses, (ctypes.c_int64 * len(sizes))(*sizes), len(sizes), square)
    guarded.assert_guards_intact()
    assert_same_bits(guarded.inside, want)


# --- Compile checks ---


def assert_rounds_as_the_reference(ptx: Path) -> None:
    """No fma, no flush to zero, and IEEE division."""
    code = ptx.read_text()
    assert not re.search(r"\bfma\.|\.ftz\b|\bdiv\.(full|approx)", code), ptx.name
    if ptx.name.startswith("dampen"):
        assert "div.rn.f32" in code
        assert re.search(r"setp\.\w+\.f32", code)


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
    assert sum("accumulate_kernel" in name for name in names) == 4 and any("dampen_kernel" in name for name in names)
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


@pytest.fixture
def record(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line although pytest captures output: registers are worth reading, not worth a limit."""

    def show(line: str) -> None:
        with capsys.disabled():
            print("\n" + line, end="")

    return show
