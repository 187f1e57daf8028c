"""CRC-32 of tensors, arrays, texts and bytes."""

from __future__ import annotations

import mmap
import zlib

import numpy as np
import torch
from torch import Tensor


def crc32(*parts: Tensor | np.ndarray | str | bytes | mmap.mmap, start: int = 0) -> int:
    """The CRC-32 of the bytes of all parts, one after the other.

    Args:
        *parts: Tensors on any device and arrays by their elements in logical order, texts in UTF-8.
        start: The CRC-32 of what comes before them.
    """
    code = start
    for part in parts:
        if isinstance(part, str):
            code = zlib.crc32(part.encode(), code)
        elif isinstance(part, Tensor):
            flat = part.detach().cpu().contiguous().reshape(-1)
            code = zlib.crc32(flat.view(torch.uint8).numpy().data, code)
        else:
            code = zlib.crc32(part.tobytes() if isinstance(part, np.ndarray) else part, code)
    return code
