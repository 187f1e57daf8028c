"""The CUDA kernels without a GPU: csrc/cuda compiled for the host, called by the launches of the operations."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import SIZES, Guarded, assert_same_bits, numbers
from potion_fast.ops import KERNELS, OPS, _ratios, reference

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NAMES = ("accumulate", "compact", "dampen", "dampen_many", "group", "put", "select")
INF, NAN = float("inf"), float("nan")

# --- The sources on the host ----------------------------------------------------------------------------------------


class Host:
    """Stands in for potion_fast._native: the same names and arguments."""

    most_percentiles, most_groups = 64, 255

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.last_problem.restype = ctypes.c_char_p

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64 if name == "ratios_bytes" else ctypes.c_bool

        def call(*arguments: Any) -> int:
            result = function(*(part for argument in arguments for part in self._passed(argument)))
            if function.restype is ctypes.c_bool and not result:
                raise RuntimeError(self.library.last_problem().decode())
            return result

        return call

    @staticmethod
    def _passed(argument: Any) -> Iterator[Any]:
        if isinstance(argument, list):
            kind = ctypes.c_double if argument and isinstance(argument[0], float) else ctypes.c_int64
            yield (kind * len(argument))(*argument)
            argument = len(argument)
        yield ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """csrc/cuda compiled for the host; only the launch syntax is rewritten."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    (folder / "cuda_runtime.h").write_text((HERE / "cuda_on_cpu.h").read_text())
    for name in NAMES:
        source = (ROOT / "csrc/cuda" / f"{name}.cu").read_text()
        launch = re.compile(r"([\w<>, ]+?)<<<(\w+), (\w+), 0, [^>]+?>>>\((.*?)\);", re.DOTALL)
        source = re.sub(r"reinterpret_cast<cudaStream_t>\(stream\)>>>", "stream>>>", source)
        source, launches = launch.subn(r"launch_on_cpu(\2, \3, [&] { \1(\4); });", source)
        assert launches == source.count("launch_on_cpu(") > 0 and "<<<" not in source
        (folder / f"{name}.cpp").write_text(source)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-Wno-unknown-pragmas"]
    flags += ["-fsanitize=undefined", "-fno-sanitize-recover=all"]

    def build(*arguments: str | Path) -> None:
        result = subprocess.run([compiler, *flags, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def compiled(source: Path) -> Path:
        build(f"-I{folder}", f"-I{ROOT / 'csrc'}", "-c", source, "-o", folder / f"{source.stem}.o")
        return folder / f"{source.stem}.o"

    sources = [HERE / "cuda_on_cpu.cpp", *(folder / f"{name}.cpp" for name in NAMES)]
    with ThreadPoolExecutor(2) as pool:
        build("-shared", *pool.map(compiled, sources), "-o", folder / "all.so")
    return folder / "all.so"


@pytest.fixture
def host(library: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The launches call the host's kernels with CPU tensors."""
    host = Host(library)
    modules = {sys.modules[KERNELS[op]["cuda"].__module__] for op in OPS if "cuda" in KERNELS[op]}
    for module in (*modules, _ratios):
        monkeypatch.setattr(module, "native", host)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    return host


def test_a_barrier_that_not_all_reach_is_an_error(host: Host) -> None:
    with pytest.raises(RuntimeError, match="wait for each other"):
        host.wait_for_each_other()


# --- accumulate, dampen, dampen_many --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*SIZES, 8 * 2048 - 1, 8 * 2048, 16 * 2048 + 1])
def test_dampen(host: Host, n: int) -> None:
    weights, forget, retain = numbers(n, 1), numbers(n, 2).abs(), numbers(n, 3).abs()
    want = weights.clone()
    reference.dampen(want, forget, retain, 0.7, 1.3)
    guarded = Guarded(weights, "cpu")
    KERNELS["dampen"]["cuda"](guarded.inside, forget, retain, 0.7, 1.3)
    guarded.assert_guards_intact()
    assert_same_bits(guarded.inside, want)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("alphas", [[], [0.7], [0.7, NAN, INF, 0.0, 3.0, 1e-30, -1.0, -INF]])
def test_dampen_many(host: Host, n: int, alphas: list[float]) -> None:
    weights, forget, retain = numbers(n, 1), numbers(n, 2).abs(), numbers(n, 3).abs()
    forget, retain = (Guarded(tensor, "cpu", shift).inside for tensor, shift in ((forget, 2), (retain, 3)))
    got = KERNELS["dampen_many"]["cuda"](weights, forget, retain, torch.tensor(alphas), 1.3)
    assert_same_bits(got, reference.dampen_many(weights, forget, retain, torch.tensor(alphas), 1.3))


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
def test_accumulate(host: Host, sizes: list[int], dtype: torch.dtype, square: bool) -> None:
    gradients = [Guarded(numbers(n, i, dtype), "cpu", shift=i % 4).inside for i, n in enumerate(sizes)]
    sums = numbers(sum(sizes), 99, dtype)
    want = sums.clone()
    reference.accumulate(want, gradients, square)
    guarded = Guarded(sums, "cpu")
    KERNELS["accumulate"]["cuda"](guarded.inside, gradients, square)
    guarded.assert_guards_intact()
    assert_same_bits(guarded.inside, want)


# --- select and group -----------------------------------------------------------------------------------------------

PERCENTILES = [99.9, 95.0, 97.3, 99.0]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is kept although there is little of it; the list grows by the capacity of each attempt."""
    attempts: list[int] = []
    capacities = _ratios.capacities

    def noted(n: int, share: float) -> Iterator[int]:
        for capacity in capacities(n, share):
            attempts.append(capacity)
            yield capacity

    monkeypatch.setattr(_ratios, "KEPT_FROM", 1)
    monkeypatch.setattr(_ratios, "capacities", noted)
    return attempts


def trained(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Importances as of a network: over orders of magnitude, 1 % 0/0 and some x/0."""
    random = np.random.default_rng(seed)
    forget, retain = (torch.from_numpy(random.lognormal(0, 2, n)).float() for _ in range(2))
    where = torch.from_numpy(random.random(n))
    retain[where < 0.011] = 0
    forget[where < 0.01] = 0
    return forget, retain


def assert_groups(forget: Tensor, retain: Tensor, percentiles: list[float], dampening: float) -> None:
    got = KERNELS["select_and_partition"]["cuda"](forget, retain, percentiles, dampening)
    assert_equal(got, reference.select_and_partition(forget, retain, percentiles, dampening))
    assert_same_bits(KERNELS["select"]["cuda"](forget, retain, percentiles), got[0])


def assert_equal(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for g, w in zip(got, want, strict=True):
        if g.is_floating_point():
            assert_same_bits(g, w)
        else:
            assert g.dtype == w.dtype and torch.equal(g, w)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 33, 1023, 3072, 3073, 20_003])
@pytest.mark.parametrize("dampening", [1.0, 0.0, 3.0])
def test_groups_of_all(host: Host, n: int, dampening: float) -> None:
    assert_groups(*trained(n), PERCENTILES, dampening)


@pytest.mark.parametrize("n", [1023, 3072, 3073, 20_003, 100_001])
@pytest.mark.parametrize("dampening", [1.0, 0.0])
def test_groups_of_the_kept(host: Host, kept: list[int], n: int, dampening: float) -> None:
    assert_groups(*trained(n), PERCENTILES, dampening)
    assert len(kept) == 2 and all(kept), "one attempt for each op, and it suffices"


@pytest.mark.parametrize("shifts", [(0, 0), (1, 1), (0, 2)])
def test_views_at_any_address(host: Host, kept: list[int], shifts: tuple[int, int]) -> None:
    read = (Guarded(t, "cpu", shift).inside for t, shift in zip(trained(5003), shifts, strict=True))
    assert_groups(*read, PERCENTILES, 1.0)


def test_many_candidates(host: Host, kept: list[int]) -> None:
    percentiles = np.random.default_rng(0).uniform(95, 100, 65).tolist()
    assert_groups(*trained(1001), percentiles[:64], 1.0)
    assert_equal(
        KERNELS["select_and_partition"]["cuda"](*trained(1001), percentiles, 1.0),
        reference.select_and_partition(*trained(1001), percentiles, 1.0),
    )


@pytest.mark.parametrize("percentiles", [[], [0.0], [100.0], [0.0, 100.0, 50.0, 33.3, 1e-9, 100 - 1e-9]], ids=str)
def test_any_percentiles(host: Host, percentiles: list[float]) -> None:
    assert_groups(*trained(3001), percentiles, 1.0)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("n", [1, 100, 5003])
def test_special_numbers(host: Host, kept: list[int], n: int, absolute: bool) -> None:
    forget, retain = (numbers(n, seed).abs() if absolute else numbers(n, seed) for seed in (1, 2))
    assert_groups(forget, retain, [50.0, 99.0, 100.0], 0.3)  # 50 is too low to keep anything
    assert_groups(forget, retain, [93.0, 99.0, 100.0], 0.3)


def test_ties(host: Host) -> None:
    random = np.random.default_rng(0)
    forget, retain = (torch.from_numpy(random.integers(0, most, 9001)).float() for most in (4, 3))
    assert_groups(forget, retain, [0.0, 50.0, 93.0, 99.0], 1.0)
    assert_groups(torch.ones(4099), torch.ones(4099), [96.0], 2.0)


ATTEMPTS = {
    "all survive": (torch.ones(5000), torch.ones(5000)),
    "subnormal ratios": (torch.arange(5000).float() * 1e-45, torch.full((5000,), 3.0)),
    "no finite ratio": (torch.rand(5000), torch.zeros(5000)),
    "zeros": (torch.zeros(5000), torch.ones(5000)),
    "negative forget": (-trained(5000)[0], trained(5000)[1]),
    "negative retain": (trained(5000)[0], -trained(5000)[1]),
    "not a number": (torch.full((5000,), NAN), torch.ones(5000)),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_what_is_kept_does_not_suffice(host: Host, kept: list[int], monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(_ratios, "capacities", lambda n, share: iter(kept.append(c) or c for c in (1000, 0)))
    assert_groups(*ATTEMPTS[case], PERCENTILES, 1.0)
    assert kept == [1000, 0, 1000, 0], "each op tries once, and then reads all"


@functools.cache
def sampled(n: int) -> Tensor:
    """[n]: whether select.cu looks at a weight before it chooses its bound."""
    seen = torch.zeros(n, dtype=torch.bool)
    for j in range(1, (1 << 18) + 1):
        j = j * 0x9E3779B97F4A7C15 % 2**64
        j = (j ^ j >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        j = (j ^ j >> 27) * 0x94D049BB133111EB % 2**64
        seen[(j ^ j >> 31) * n >> 64] = True
    return seen


def test_the_bound_is_too_high_where_the_sample_misleads(host: Host, kept: list[int]) -> None:
    forget = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 10 + 10
    forget[~sampled(200_000)] = 0.5
    assert_groups(forget, torch.ones(200_000), [93.0, 99.0], 0.0)
    assert kept[1] == kept[3] == 0 and len(kept) == 4


def test_smaller_ratios_than_those_left_out_are_kept(host: Host, kept: list[int]) -> None:
    """For the smallest numbers 1.25 · 2⁻¹⁴⁹ rounds to 2⁻¹⁴⁹: the ratio 1 passes a bound of 1.25, and 1.2 does not."""
    n = 200_000
    forget, retain, seen = torch.full((n,), 1.2), torch.ones(n), sampled(n)
    forget[::2] = retain[::2] = 2.0**-149
    forget[seen], retain[seen] = torch.tensor([1.25] + 12 * [0.0]).repeat(n)[:n][seen], 1.0
    assert_groups(forget, retain, [93.0, 99.0], 0.0)
    assert kept[1] == kept[3] == 0 and len(kept) == 4


@pytest.mark.parametrize(
    "alphas",
    [
        [],
        [NAN],
        [0.5, NAN, INF, 3.0, -1.0, 3.0, 0.0, -INF, 1e-40],
        [2.0, 0.5, NAN, INF, 0.5, 70.0],
        [0.0, -0.0],
        (torch.rand(255, generator=torch.Generator().manual_seed(0)) * 50).tolist(),
        (torch.rand(256, generator=torch.Generator().manual_seed(0)) * 50).tolist(),
    ],
    ids=lambda alphas: f"{len(alphas)}:{alphas[:2]}",
)
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("few", [True, False])
def test_groups_of_given_alphas(
    host: Host, request: pytest.FixtureRequest, alphas: list[float], absolute: bool, few: bool
) -> None:
    if few:
        request.getfixturevalue("kept")
    forget, retain = (numbers(5003, seed).abs() if absolute else numbers(5003, seed) for seed in (1, 2))
    got = KERNELS["partition"]["cuda"](forget, retain, torch.tensor(alphas), 1.0)
    assert_equal(got, reference.partition(forget, retain, torch.tensor(alphas), 1.0))


def test_wide_index(host: Host, kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ratios, "INT64_FROM", 4000)
    forget, retain = trained(4000)
    index = KERNELS["select_and_partition"]["cuda"](forget, retain, PERCENTILES, 1.0)[1]
    assert index.dtype == torch.int64
    assert torch.equal(index, reference.select_and_partition(forget, retain, PERCENTILES, 1.0)[1].long())


importances = st.floats(0, width=32) | st.sampled_from([0.0, 1.0, 1e-45, 1e-38, 3e38, INF, NAN])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(importances, importances), max_size=80),
    percentiles=st.lists(st.floats(0, 100) | st.floats(93, 100), min_size=1, max_size=3),
    dampening=st.sampled_from([0.0, 0.5, 1.0, 10.0]),
)
def test_any_importances(
    host: Host, kept: list[int], rows: list[tuple[float, float]], percentiles: list[float], dampening: float
) -> None:
    forget, retain = (t.contiguous() for t in torch.tensor(rows, dtype=torch.float32).reshape(-1, 2).T)
    assert_groups(forget, retain, percentiles, dampening)


# --- take and put ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    "sizes",
    [[], [0], [5], [7, 0, 3], [4099, 1, 1023], [3] * 200, [3] * 201, [0] * 200 + [9], [2, 0] * 220],
    ids=lambda sizes: f"{len(sizes)}x{max(sizes, default=0)}",
)
def test_take_and_put(host: Host, sizes: list[int], dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    guarded = [Guarded(numbers(n, i), "cpu", shift=i % 4) for i, n in enumerate(sizes)]
    parameters = [g.inside for g in guarded]
    offsets = [10_000 + 5000 * p for p in range(len(sizes))]
    chosen = [random.permutation(n)[: n - n // 3] + offset for n, offset in zip(sizes, offsets, strict=True)]
    cuts = np.cumsum([0, *map(len, chosen)]).tolist()
    index = torch.from_numpy(np.concatenate([np.empty(0, int), *chosen])).to(dtype)
    got = KERNELS["take"]["cuda"](parameters, offsets, cuts, index)
    assert_same_bits(got, reference.take(parameters, offsets, cuts, index))

    want, values = [p.clone() for p in parameters], numbers(len(index), 99)
    reference.put(want, offsets, cuts, index, values)
    KERNELS["put"]["cuda"](parameters, offsets, cuts, index, values)
    for g, p, w in zip(guarded, parameters, want, strict=True):
        g.assert_guards_intact()
        assert_same_bits(p, w)
