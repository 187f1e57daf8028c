"""channel_sums: every kernel agrees with the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.backends import Backend, opcheck
from potion_fast import ops
from potion_fast.errors import ImportanceError
from potion_fast.ops import reference

SHAPES = [(0, 3, 4), (1, 1), (4, 3), (2, 0, 5), (3, 2, 0), (5, 3, 7), (2, 17, 4, 4), (3, 16, 31, 33), (2, 3, 2, 3, 4)]


def data(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mean = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    return inputs.to(device, dtype), gradients.to(device, dtype), mean.to(device, dtype)


@pytest.mark.parametrize("memory", ["contiguous", "channels-last", "views"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference_in_float64(
    backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, memory: str
) -> None:
    inputs, gradients, mean = data(shape, dtype, backend.device)
    want = reference.channel_sums(*(t.double() for t in (inputs, gradients, mean)))
    if memory == "channels-last":
        inputs, gradients = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (inputs, gradients))
    elif memory == "views":
        inputs, gradients = (t.repeat_interleave(2, 0)[::2] for t in (inputs, gradients))
        gradients = gradients.movedim(1, -1).contiguous().movedim(-1, 1)
    with backend.use():
        got = ops.channel_sums(inputs, gradients, mean)
    precision = 1e-5 if dtype == torch.float32 else 1e-13
    for sums, wanted in zip(got, want, strict=True):
        assert sums.dtype == dtype and sums.shape == shape[:2]
        torch.testing.assert_close(sums.double(), wanted, rtol=precision, atol=precision * shape[-1] ** 0.5 + 1e-300)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    inputs, gradients, mean = data((9, 16, 64, 64), torch.float32, "cpu")
    want, before = ops.channel_sums(inputs, gradients, mean), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = ops.channel_sums(inputs, gradients, mean)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(sums, wanted) for sums, wanted in zip(got, want, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_sample_and_channel(backend: Backend, value: float) -> None:
    inputs, gradients, mean = data((3, 4, 40), torch.float32, backend.device)
    gradients[1, 2, 37] = value
    with backend.use():
        scale, shift = ops.channel_sums(inputs, gradients, mean)
    for sums in (scale, shift):
        assert sums.isfinite().logical_not().nonzero().tolist() == [[1, 2]]


def test_opcheck(backend: Backend) -> None:
    opcheck(backend, "channel_sums", *data((3, 4, 5), torch.float32, backend.device))


def test_tensors_that_do_not_fit_are_errors() -> None:
    inputs, gradients, mean = data((3, 4, 5), torch.float32, "cpu")
    for arguments in (
        (inputs, gradients[:2], mean),
        (inputs, gradients, mean[:3]),
        (inputs[0, 0], gradients[0, 0], mean),
        (inputs, gradients.double(), mean),
        (inputs.half(), gradients.half(), mean.half()),
        (inputs, gradients, mean.to("meta")),
    ):
        with pytest.raises(ImportanceError, match="channel_sums"):
            ops.channel_sums(*arguments)
