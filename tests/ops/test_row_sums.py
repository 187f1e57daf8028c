"""row_sums: every kernel agrees with the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.backends import Backend, opcheck
from potion_fast import ops
from potion_fast.errors import ImportanceError
from potion_fast.ops import reference

SHAPES = [(0, 3, 4), (2, 0, 5), (1, 1, 1), (3, 4, 1), (5, 3, 7), (2, 9, 16), (4, 65, 192), (3, 5, 1001)]


def data(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return (inputs * 3 + 2).to(device, dtype), gradients.to(device, dtype)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference_in_float64(
    backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, centred: bool, views: bool
) -> None:
    inputs, gradients = data(shape, dtype, backend.device)
    want = reference.row_sums(inputs.double(), gradients.double(), 1e-3, centred)
    if views:
        inputs, gradients = inputs.mT.contiguous().mT, gradients.repeat_interleave(2, 0)[::2]
    with backend.use():
        got = ops.row_sums(inputs, gradients, 1e-3, centred)
    precision = 1e-5 if dtype == torch.float32 else 1e-13
    for sums, wanted in zip(got, want, strict=True):
        assert sums.dtype == dtype and sums.shape == (shape[0], shape[2])
        torch.testing.assert_close(sums.double(), wanted, rtol=precision, atol=precision * (shape[1] + 1))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    inputs, gradients = data((9, 300, 192), torch.float32, "cpu")
    want, before = ops.row_sums(inputs, gradients, 1e-5), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = ops.row_sums(inputs, gradients, 1e-5)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(sums, wanted) for sums, wanted in zip(got, want, strict=True))


def test_what_is_not_finite_stays_in_its_group(backend: Backend) -> None:
    inputs, gradients = data((3, 4, 40), torch.float32, backend.device)
    inputs[1, 2, 37] = torch.nan
    gradients[2, 1, 5] = torch.inf
    with backend.use():
        scale, shift = ops.row_sums(inputs, gradients, 1e-5)
    assert scale[0].isfinite().all() and scale[1].isnan().all()
    assert scale[2].isfinite().logical_not().nonzero().tolist() == [[5]]
    assert shift.isfinite().logical_not().nonzero().tolist() == [[2, 5]]


def test_tensors_that_do_not_fit_are_errors() -> None:
    inputs, gradients = data((3, 4, 5), torch.float32, "cpu")
    for arguments in (
        (inputs, gradients[:2]),
        (inputs[0], gradients[0]),
        (inputs, gradients.double()),
        (inputs.half(), gradients.half()),
        (inputs, gradients.to("meta")),
    ):
        with pytest.raises(ImportanceError, match="row_sums"):
            ops.row_sums(*arguments, 1e-5)


def test_opcheck(backend: Backend) -> None:
    opcheck(backend, "row_sums", *data((2, 3, 5), torch.float32, backend.device), 1e-5, True)
