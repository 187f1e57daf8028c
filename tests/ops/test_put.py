"""take and put: weights at places of a flat buffer that is spread over parameters."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.backends import Backend, Guarded, assert_same_bits, numbers, opcheck
from helpers.products import threads
from helpers.ratios import poisoned
from potion_fast import ops
from potion_fast.edits.weight_index import WeightIndex
from potion_fast.errors import ImportanceError
from potion_fast.ops import KERNELS, reference

SIZES = [7, 1, 0, 12_000, 300, 50_001]


def guarded(device: str) -> list[Guarded]:
    return [Guarded(numbers(size, seed), device) for seed, size in enumerate(SIZES)]


def scattered(m: int, dtype: torch.dtype, device: str) -> tuple[list[int], list[int], Tensor]:
    """Offsets, cuts and m different ascending places in parameters of those sizes."""
    n = sum(SIZES)
    index = torch.randperm(n, generator=torch.Generator().manual_seed(m))[:m].sort().values
    offsets = [0, *torch.tensor(SIZES).cumsum(0).tolist()]
    cuts = torch.searchsorted(index, torch.tensor(offsets)).tolist()
    return offsets[:-1], cuts, index.to(dtype).to(device)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("m", [0, 1, 5, 4099, 62_309])
def test_what_is_put_is_taken_and_nothing_else_changes(backend: Backend, m: int, dtype: torch.dtype) -> None:
    buffers = guarded(backend.device)
    parameters = [buffer.inside for buffer in buffers]
    before = torch.cat(parameters)
    offsets, cuts, index = scattered(m, dtype, backend.device)
    values = numbers(m, 9).to(backend.device)
    with backend.use():
        with poisoned():
            original = ops.take(parameters, offsets, cuts, index)
        ops.put(parameters, offsets, cuts, index, values)
    assert_same_bits(original, before[index.long()])
    want = before.clone()
    want[index.long()] = values
    assert_same_bits(torch.cat(parameters), want)
    for buffer in buffers:
        buffer.assert_guards_intact()
    with backend.use():
        ops.put(parameters, offsets, cuts, index, original)
    assert_same_bits(torch.cat(parameters), before)


def test_places_within_a_piece_may_be_in_any_order_and_values_strided(backend: Backend) -> None:
    parameter = torch.zeros(10, device=backend.device)
    index = torch.tensor([13, 9, 12, 4, 18, 4], device=backend.device)[::2]
    with backend.use():
        ops.put([parameter], [9], [0, 3], index, torch.arange(6.0, device=backend.device)[::2])
    assert parameter.tolist() == [0, 0, 0, 2, 0 + 0, 0, 0, 0, 0, 4.0][:3] + [2.0, 0.0] + [0.0] * 4 + [4.0]


def test_parameters_are_addressed_in_the_order_of_their_memory(backend: Backend) -> None:
    conv = torch.arange(24.0, device=backend.device).view(2, 3, 2, 2).to(memory_format=torch.channels_last)
    matrix = torch.arange(6.0, device=backend.device).view(2, 3).T
    with backend.use():
        got = ops.take([conv, matrix], [0, 24], [0, 3, 5], torch.tensor([0, 1, 23, 24, 26], device=backend.device))
    assert got.tolist() == [0.0, 4.0, 23.0, 0.0, 2.0]


def test_the_number_of_threads_changes_nothing() -> None:
    offsets, cuts, index = scattered(50_000, torch.int32, "cpu")
    values, results = numbers(50_000, 3), []
    for number in (1, 2, 3):
        parameters = [buffer.inside for buffer in guarded("cpu")]
        with threads(number):
            ops.put(parameters, offsets, cuts, index, values)
            assert_same_bits(ops.take(parameters, offsets, cuts, index), values)
        results.append(torch.cat(parameters))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("place", [-1, 6, 2**31 - 1])
def test_a_place_outside_its_parameter_is_an_error_and_writes_nothing_there(place: int) -> None:
    if ops.native is None:
        pytest.skip(ops.native_problem)
    buffer = Guarded(torch.zeros(5), "cpu")
    index = torch.tensor([1, place])
    for call in (ops.take, lambda *a: ops.put(*a, torch.ones(2))):
        with pytest.raises(ImportanceError, match="lies outside"):
            call([buffer.inside], [1], [0, 2], index)
    buffer.assert_guards_intact()
    assert buffer.inside.tolist() == [1.0, 0, 0, 0, 0]


def test_what_does_not_fit_is_refused() -> None:
    p, index, values = torch.zeros(5), torch.tensor([1, 2]), torch.zeros(2)
    calls = {
        "index is torch.float32": lambda: ops.take([p], [0], [0, 2], values),
        "index is torch.int16": lambda: ops.take([p], [0], [0, 2], index.short()),
        "1 parameters, 2 offsets": lambda: ops.take([p], [0, 5], [0, 2], index),
        "cuts must rise": lambda: ops.take([p, p], [0, 5], [0, 3, 2], index),
        "from 0 to 2": lambda: ops.take([p], [0], [0, 1], index),
        "parameter 0 is torch.float64": lambda: ops.take([p.double()], [0], [0, 2], index),
        "gaps in its memory": lambda: ops.put([torch.zeros(9)[::2]], [0], [0, 2], index, values),
        "on meta": lambda: ops.take([p.to("meta")], [0], [0, 2], index),
        "values is torch.float64": lambda: ops.put([p], [0], [0, 2], index, values.double()),
        "pass 2 flat": lambda: ops.put([p], [0], [0, 2], index, torch.zeros(3)),
        "values shares memory with parameter 0": lambda: ops.put([p], [0], [0, 2], index, p[:2]),
        "under torch.no_grad": lambda: ops.put([torch.zeros(5, requires_grad=True)], [0], [0, 2], index, values),
    }
    for message, call in calls.items():
        with pytest.raises(ImportanceError, match=message):
            call()


def test_autograd_notices_that_a_parameter_was_written(backend: Backend) -> None:
    x = torch.ones(5, device=backend.device, requires_grad=True)
    saved = torch.ones(5, device=backend.device)
    y = (x * saved).sum()
    with backend.use():
        index = torch.tensor([1], device=backend.device)
        ops.put([saved], [0], [0, 1], index, torch.zeros(1, device=backend.device))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_places_follow_the_logical_order_of_parameters_in_any_memory_format() -> None:
    """Of which one has gaps, and so is not for the operation."""
    torch.manual_seed(0)
    parameters = [
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.randn(5),
        torch.randn(6, 4)[:, ::2],
        torch.randn(3, 7).T,
        torch.randn(()),
    ]
    flat = torch.cat([p.reshape(-1) for p in parameters])
    order = torch.randperm(len(flat))[:60]
    starts = [0, 25, 25, 60]
    index = torch.cat([order[:25].sort().values, order[25:].sort().values]).int()
    wanted = flat[index.long()]
    places = WeightIndex(parameters, index.clone(), starts)
    assert len(places) == 3
    assert torch.equal(places.take(), wanted)
    values = torch.arange(60.0) + 100
    places.put(2, values)
    flat[index[25:].long()] = values[25:]
    assert torch.equal(torch.cat([p.reshape(-1) for p in parameters]), flat)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    "sizes",
    [[], [0], [5], [7, 0, 3], [4099, 1, 1023], [3] * 200, [3] * 201, [0] * 200 + [9], [2, 0] * 220],
    ids=lambda sizes: f"{len(sizes)}x{max(sizes, default=0)}",
)
def test_the_cuda_kernel_on_the_host(cuda_on_cpu: ModuleType, sizes: list[int], dtype: torch.dtype) -> None:
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


def test_opcheck(backend: Backend) -> None:
    parameters = [torch.rand(4, 5, device=backend.device), torch.rand(7, device=backend.device)]
    offsets, cuts, index = [0, 20], [0, 2, 3], torch.tensor([3, 1, 26], device=backend.device)
    opcheck(backend, "take", parameters, offsets, cuts, index)
    opcheck(backend, "put", parameters, offsets, cuts, index, torch.rand(3, device=backend.device))
