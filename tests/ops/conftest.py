"""The CUDA kernels of every operation, compiled for the host."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from potion_fast.ops import KERNELS, _ratios

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LAUNCH = re.compile(r"([\w<>, ]+?)<<<(\w+), (\w+), 0, [^>]+?>>>\((.*?)\);", re.DOTALL)


@pytest.fixture(scope="session")
def native_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """potion_fast._native with csrc/cuda compiled for the host, where only the launch syntax is rewritten.

    A kernel's threads are fibers (cuda_on_cpu.h), and the undefined-behaviour sanitizer watches them. The C++ kernels
    are left out.
    """
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    pybind11 = pytest.importorskip("pybind11")
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").exists():
        pytest.skip("needs the headers of Python (python3-dev)")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    (folder / "cuda_runtime.h").write_text((HERE / "cuda_on_cpu.h").read_text())
    sources = [HERE / "cuda_on_cpu.cpp"]
    for path in sorted((ROOT / "csrc/cuda").glob("*.cu")):
        if path.name == "device.cu":  # asks the driver
            continue
        source = re.sub(r"reinterpret_cast<cudaStream_t>\(stream\)>>>", "stream>>>", path.read_text())
        source, launches = LAUNCH.subn(r"launch_on_cpu(\2, \3, [&] { \1(\4); });", source)
        assert launches == source.count("launch_on_cpu(") > 0 and "<<<" not in source
        sources.append(folder / f"{path.stem}.cpp")
        sources[-1].write_text(source)

    flags = ["-std=c++17", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-Wno-unknown-pragmas"]
    sanitized = ["-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    # The optimiser drops the wrappers of the C++ kernels, which nothing binds here.
    binding = ["-O1", "-Wno-unused-function", f"-I{pybind11.get_include()}", f"-I{python}", "-DPOTION_CUDA_ONLY"]
    binding += [f'-DPOTION_{name}="host"' for name in ("COMPILER", "CUDA_VERSION", "CUDA_ARCHITECTURES")]

    def build(*arguments: str | Path) -> None:
        result = subprocess.run([compiler, *flags, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def compiled(source: Path) -> Path:
        options = binding if source.name == "bindings.cpp" else sanitized
        build(*options, f"-I{folder}", f"-I{ROOT / 'csrc'}", "-c", source, "-o", folder / f"{source.stem}.o")
        return folder / f"{source.stem}.o"

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [ROOT / "csrc/bindings.cpp", *sources]))
    build("-shared", "-fsanitize=undefined", *objects, "-o", folder / "_native.so")
    spec = importlib.util.spec_from_file_location("cuda_on_cpu._native", folder / "_native.so")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cuda_on_cpu(native_on_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The CUDA launches, KERNELS[op]["cuda"], call the host's kernels with CPU tensors."""
    launches = [kernels["cuda"] for kernels in KERNELS.values() if "cuda" in kernels]
    for module in (_ratios, *(sys.modules[launch.__module__] for launch in launches)):
        monkeypatch.setattr(module, "native", native_on_cpu)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    return native_on_cpu
