"""The choice of a backend, the checks before a pointer is taken, and the registration with PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from helpers.backends import Backend, assert_same_bits, numbers
from potion_fast import ops
from potion_fast.errors import BackendError, ImportanceError
from potion_fast.ops import _dispatch, reference

CPU = torch.device("cpu")


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without a compiler."""
    monkeypatch.setattr(_dispatch, "native", None)
    monkeypatch.setattr(_dispatch, "native_problem", "the native module was not built")
    ops.missing.cache_clear()
    yield
    ops.missing.cache_clear()


def f32(n: int = 5) -> torch.Tensor:
    return torch.ones(n)


# --- The choice of a backend ---


def test_cpu_tensors_go_to_the_cpp_kernels_where_they_are_built() -> None:
    assert ops.chosen("dampen", "cpu").backend == ("cpu" if ops.native else "reference")
    assert ops.chosen("select", "cpu").backend == ("cpu" if ops.native else "reference")


def test_without_a_compiler_the_reference_runs(no_native: None) -> None:
    choice = ops.chosen("dampen", "cpu")
    assert choice.backend == "reference" and "was not built" in choice.reason
    weights = f32()
    ops.dampen(weights, f32(), 0.5 * f32(), 1.0)
    assert weights.tolist() == [0.5] * 5


def test_other_devices_go_to_the_reference() -> None:
    assert ops.chosen("dampen", "meta").backend == "reference"


def test_an_unknown_backend_is_named_with_the_allowed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "cudnn")
    with pytest.raises(BackendError, match=r"cudnn is unknown; it can be reference, cpu, cuda, triton"):
        ops.select(f32(), f32(), [50.0])


def test_an_asked_for_backend_that_the_device_lacks_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "cuda")
    with pytest.raises(BackendError, match="POTION_FAST_BACKEND=cuda cannot run accumulate on cpu"):
        ops.accumulate(f32(), [f32()])


def test_an_asked_for_backend_that_the_build_lacks_raises(no_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "cpu")
    with pytest.raises(BackendError, match="was not built"):
        ops.dampen(f32(), f32(), f32(), 1.0)


def test_an_asked_for_backend_leaves_operations_without_such_a_kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "triton")
    assert ops.select(f32(), f32(), [50.0]).tolist() == [1.0]


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTION_FAST_BACKEND", "reference")
    assert ops.chosen("dampen", "cpu") == ("reference", "POTION_FAST_BACKEND asks for it")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "POTION_FAST_REQUIRE_NATIVE")}
    return subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)


def test_a_missing_native_module_is_an_error_where_it_is_required() -> None:
    code = "import sys; sys.modules['potion_fast._native'] = None; import potion_fast.ops"
    result = run_python(code, POTION_FAST_REQUIRE_NATIVE="1")
    assert "BackendError: POTION_FAST_REQUIRE_NATIVE=1" in result.stderr
    assert run_python(code).returncode == 0


def test_triton_on_cpu_tensors_needs_the_interpreter_and_nothing_imports_triton_before() -> None:
    code = """
import sys, torch
from potion_fast import ops
ops.dampen(torch.ones(3), torch.ones(3), torch.ones(3), 1.0)
assert "potion_fast.kernels" not in sys.modules
print(ops.missing("triton", torch.device("cpu")))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "TRITON_INTERPRET=1" in result.stdout or "cannot be imported" in result.stdout


@pytest.mark.parametrize(
    ("triton", "numpy", "works"), [("3.6.0", "2.3.5", True), ("3.6.0", "2.4.0", False), ("3.10.0", "2.10.1", True)]
)
def test_an_interpreter_that_fails_with_this_numpy_is_not_used(triton: str, numpy: str, works: bool) -> None:
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    code = f"""
import numpy, torch, triton
from potion_fast import ops
numpy.__version__, triton.__version__ = {numpy!r}, {triton!r}
print(ops.missing("triton", torch.device("cpu")))
"""
    result = run_python(code, TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stderr
    assert (result.stdout.strip() == "") == works
    assert works or "install Triton 3.7 or newer, or NumPy below 2.4" in result.stdout


# --- Checks ---

BUFFER = torch.zeros(10)
BAD_CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "sums of another dtype": ("sums is torch.float16", lambda: ops.accumulate(f32().half(), [f32().half()])),
    "sums not flat": (r"sums is of shape \[5, 1\]", lambda: ops.accumulate(f32()[:, None], [f32()])),
    "sums not contiguous": ("sums is written in place", lambda: ops.accumulate(f32(10)[::2], [f32()])),
    "sizes that do not add up": ("5 elements, the gradients 7", lambda: ops.accumulate(f32(), [f32(3), f32(4)])),
    "gradient of another dtype": (
        "gradient 1 is torch.float64",
        lambda: ops.accumulate(f32(), [f32(4), f32(1).double()]),
    ),
    "sparse gradient": ("to_dense", lambda: ops.accumulate(f32(), [f32().to_sparse()])),
    "gradient on another device": ("gradient 0 is on meta", lambda: ops.accumulate(f32(), [f32().to("meta")])),
    "gradient that aliases sums": ("gradient 0 shares memory", lambda: ops.accumulate(BUFFER[:5], [BUFFER[4:9]])),
    "weights of another dtype": ("weights is torch.float64", lambda: ops.dampen(f32().double(), f32(), f32(), 1.0)),
    "weights not contiguous": ("weights is written in place", lambda: ops.dampen(f32(10)[::2], f32(), f32(), 1.0)),
    "weights that need gradients": (
        "torch.no_grad",
        lambda: ops.dampen(f32().requires_grad_(), f32(), f32(), 1.0),
    ),
    "other sizes": ("weights has 5 elements, retain 4", lambda: ops.dampen(f32(), f32(), f32(4), 1.0)),
    "not flat": (r"forget is of shape \[5, 1\]", lambda: ops.dampen(f32(), f32()[:, None], f32(), 1.0)),
    "other device": ("retain on meta", lambda: ops.dampen(f32(), f32(), f32().to("meta"), 1.0)),
    "aliased": ("retain shares memory with weights", lambda: ops.dampen(BUFFER[:5], f32(), BUFFER[1:6], 1.0)),
    "percentile over 100": ("percentile 101.0", lambda: ops.select(f32(), f32(), [50, 101])),
    "percentile NaN": ("percentile nan", lambda: ops.select(f32(), f32(), [float("nan")])),
    "select float64": ("forget is torch.float64", lambda: ops.select(f32().double(), f32(), [50])),
    "alphas float64": ("alphas is torch.float64", lambda: ops.dampen_many(f32(), f32(), f32(), f32().double())),
    "alphas a matrix": (r"of shape \[1, 5\]", lambda: ops.dampen_many(f32(), f32(), f32(), f32()[None])),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    message, call = BAD_CALLS[name]
    with pytest.raises(ImportanceError, match=message):
        call()


def test_neighbours_in_one_buffer_do_not_alias(backend: Backend) -> None:
    buffer = torch.ones(15, device=backend.device)
    buffer[10:] = 0.5
    with backend.use():
        ops.dampen(buffer[:5], buffer[5:10], buffer[10:], 1.0)
    assert buffer[:5].tolist() == [0.5] * 5 and buffer[5:10].tolist() == [1.0] * 5


def test_parameters_are_written_under_no_grad(backend: Backend) -> None:
    weights = torch.nn.Parameter(torch.ones(5, device=backend.device))
    with backend.use(), torch.no_grad():
        ops.dampen(weights, torch.ones_like(weights), 0.5 * torch.ones_like(weights), 1.0)
    assert weights.tolist() == [0.5] * 5


def test_read_buffers_may_have_any_strides(backend: Backend) -> None:
    forget, retain = (numbers(20, seed).abs().to(backend.device)[::2] for seed in (1, 2))
    weights = numbers(10, 3).to(backend.device)
    want = weights.clone().cpu()
    reference.dampen(want, forget.cpu(), retain.cpu(), 1.0, 1.0)
    with backend.use():
        ops.dampen(weights, forget, retain, 1.0)
    assert_same_bits(weights, want)


def test_autograd_notices_that_a_saved_tensor_was_written(backend: Backend) -> None:
    x = torch.ones(5, device=backend.device, requires_grad=True)
    saved = torch.ones(5, device=backend.device)
    y = (x * saved).sum()
    with backend.use():
        ops.accumulate(saved, [torch.ones(5, device=backend.device)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


# --- Registration ---


def test_every_operation_has_an_opcheck() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [op for op in ops.OPS if f'opcheck(backend, "{op}"' not in tests] == []


def test_the_example_of_the_documentation_runs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "add-an-op.md").read_text(encoding="utf-8")
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    ]
    definition, operation, test = blocks
    code = f"""
from potion_fast.ops import reference
exec({definition!r}, vars(reference))
exec({operation!r})
sums = torch.tensor([0.25, 3.0, torch.nan])
clamp_sums(sums, 0.5)
print(sums.tolist())
compile({test!r}, "test_clamp_sums.py", "exec")
torch.library.opcheck(torch.ops.potion_fast.clamp_sums.default, (torch.rand(5), 0.5))
clamp_sums(sums.double(), 0.5)
"""
    result = run_python(code, POTION_FAST_BACKEND="reference")
    assert result.stdout == "[0.25, 0.5, nan]\n", result.stderr
    assert "ImportanceError: clamp_sums: sums is torch.float64" in result.stderr


def test_the_fake_kernels_give_shapes_without_data() -> None:
    n, k = 7, 3
    flat = torch.empty(n, device="meta")
    assert torch.ops.potion_fast.select(flat, flat, [1.0] * k).shape == (k,)
    assert torch.ops.potion_fast.take([flat], [0], [0, n], flat.int()).shape == (n,)
    assert torch.ops.potion_fast.dampen_many(flat, flat, flat, torch.empty(k, device="meta"), 1.0).shape == (k, n)


def test_compiles_into_one_graph(backend: Backend) -> None:
    def step(sums: torch.Tensor, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ops.accumulate(sums, [2 * gradient], square=True)
        ops.dampen(weights, sums, 0.25 * sums, 1.0)
        return weights.sum() + sums.sum()

    def arguments() -> list[torch.Tensor]:
        return [torch.ones(6, device=backend.device) for _ in range(3)]

    eager, compiled = arguments(), arguments()
    with backend.use():
        want = step(*eager)
        got = torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled)
    assert got == want == 6 * 5 + 6 * 0.25
    assert_same_bits(compiled[0], eager[0])
    assert_same_bits(compiled[1], eager[1])
