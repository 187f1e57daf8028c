"""The choice of poisoned training samples, and of those that are found."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...errors import DataError


def choose_poisoned(n: int, count: int, forget: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the poisoned samples S_m uniformly from all n, and the found ones S_f uniformly from S_m.

    These are the public code's draws (Potion), from one generator. With a fixed seed, sets are nested: S_m of 100 lies
    within S_m of 500, and S_f of 1 within S_f of 10. Samples that already have the target label are not excluded.

    Args:
        n: size of the training set.
        count: size of S_m.
        forget: size of S_f.
        seed: of the draws.

    Returns:
        S_m int64 [count] and S_f int64 [forget], in the order of the draws.

    Raises:
        DataError: unless 1 <= forget <= count <= n.
    """
    if not 1 <= forget <= count <= n:
        raise DataError(
            f"cannot find {forget} of {count} poisoned samples among {n}: sizes must satisfy 1 <= forget <= count <= n"
        )
    # RandomState is numpy's legacy generator: its draws never change, and they are the published ones.
    rng = np.random.RandomState(seed)
    poisoned = rng.choice(n, count, replace=False)
    found = rng.choice(np.sort(poisoned), forget, replace=False)
    return poisoned, found


def choose_from_class(
    labels: Tensor, label: int, count: int, forget: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # [count] int64, [forget] int64
    """Draw S_m uniformly from the samples of one class, and S_f uniformly from S_m; sets of one seed are nested.

    Args:
        labels: int64 [N], clean, of the whole training set.
        label: of the class.
        count: size of S_m.
        forget: size of S_f.
        seed: of the draws.

    Returns:
        S_m int64 [count] and S_f int64 [forget], in the order of the draws.

    Raises:
        DataError: the class has too few samples, or S_f is no part of S_m.
    """
    if not 1 <= forget <= count:
        raise DataError(f"cannot find {forget} of {count} poisoned samples")
    members = (labels == label).nonzero().squeeze(1).numpy()
    if len(members) < count:
        raise DataError(f"class {label} has {len(members)} training samples; {count} are to be poisoned: poison fewer")
    rng = np.random.RandomState(seed)  # numpy's legacy generator: its draws never change
    poisoned = rng.choice(members, count, replace=False)
    return poisoned, rng.choice(np.sort(poisoned), forget, replace=False)
