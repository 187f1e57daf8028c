"""The checksum that distinguishes files, models and orders of samples."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from potion_fast.utils.crc import crc32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 3, 5)])
def test_a_tensor_has_the_checksum_of_its_elements_in_logical_order(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    want = zlib.crc32(bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()))
    assert crc32(tensor) == want
    assert crc32(tensor.movedim(0, -1).contiguous().movedim(-1, 0) if tensor.dim() > 1 else tensor) == want
    assert crc32(tensor.float().requires_grad_().to(dtype)) == want


def test_parts_follow_each_other() -> None:
    array, tensor = np.arange(4), torch.arange(3)
    want = zlib.crc32("Ω".encode() + b"x" + array.tobytes() + tensor.numpy().tobytes(), 7)
    assert crc32("Ω", b"x", array, tensor, start=7) == want
    assert crc32("Ω", b"x", start=7) == crc32(b"x", start=crc32("Ω", start=7))
    assert crc32(start=7) == 7
