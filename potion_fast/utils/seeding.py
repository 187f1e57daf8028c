"""Seeds of the global random generators for a block, after which they go on from where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .crc import crc32


def seed_generators(*parts: object) -> int:
    """Seed Python's, NumPy's and torch's global generators by the checksum of these parts, and return that seed."""
    seed = crc32(" ".join(map(str, parts)))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the global generators, of every device, back to where they were before the block."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
