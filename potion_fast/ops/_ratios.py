"""Memory in which the kernels of `select` and `partition` keep the weights of large ratio Ω_f / Ω_r.

Both ask only about ratios above some bound, and few weights have one: these are read out once and looked at again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .native import native

KEPT_FROM = 1 << 22  # weights; the launches of a sample cost more than to read fewer three times
INT64_FROM = 2**31  # weights whose index needs 64 bits


class Survivors:
    """Memory of the C++ kernels for the weights above a bound, which they fill as far as there are any.

    Attributes:
        places: [capacity] unsigned 16 bits: where each lies within its block.
        forget: [capacity] float32.
        retain: [capacity] float32.
        parts: [blocks, 2] int64: where the survivors of each block begin, and how many there are.
        addresses: Those of the four, and the capacity, as the kernels take them.
    """

    def __init__(self, n: int, capacity: int) -> None:
        self.places = torch.empty(capacity, dtype=torch.int16)
        self.forget, self.retain = torch.empty(2, capacity, dtype=torch.float32).unbind()
        self.parts = torch.empty(count_blocks(n), 2, dtype=torch.int64)
        tensors = self.places, self.forget, self.retain, self.parts
        self.addresses = (*(tensor.data_ptr() for tensor in tensors), capacity)


def count_blocks(n: int) -> int:
    """How many blocks of the C++ kernels `n` weights are."""
    return -(-n // native.select_block)


def capacities(n: int, share: float) -> tuple[int, ...]:
    """How many weights the CUDA kernels keep at first, and 0, all are read again, where that fails.

    Args:
        n: Number of weights.
        share: Of the weights, what lies above the lowest percentile. A margin is added, and room for x/0.
    """
    if n < KEPT_FROM or share >= 1 / 12:
        return (0,)
    return min(n, int(1.25 * share * n) + n // 128 + (1 << 16)), 0


def workspace(forget: Tensor, candidates: int, capacity: int) -> Tensor:
    """Device memory that the CUDA kernels work in: as many bytes as they need for `candidates` and `capacity`."""
    size = native.ratios_bytes(forget.numel(), candidates, capacity)
    return torch.empty(size, dtype=torch.uint8, device=forget.device)


def read_report(memory: Tensor, numbers: int) -> list[int]:
    """The first `numbers` int64 of the workspace, where the CUDA kernels leave their report; waits for them."""
    return memory[: 8 * numbers].view(torch.int64).tolist()
