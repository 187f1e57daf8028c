"""Seeds of the global random generators for a block, after which they go on from where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..errors import DataError
from .crc import crc32

MOST = 2**63 - 1  # of torch.Generator


def check_seed(seed: object) -> int:
    """A seed as an int. Raises DataError where it is none."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MOST:
        raise DataError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}")
    return int(seed)


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
