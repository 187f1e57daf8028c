"""Ω_r over S_tr without S_f for several S_f from one visit of every sample: whole groups that they share are merged.

S_tr is put in one random order; the gaps that an S_f leaves in it are filled from its end, so that all else stays in
its place. Groups that are the same for several S_f are computed once, and the sums added up. That is exact at any group
size, as groups stay whole, and nothing is subtracted: where S_f has all of a weight's importance, a difference of sums
would leave rounding noise to divide by. The poisoned samples that were not found stay spread over the groups.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import nn

from ...errors import PotionWarning
from ...importances import Importance, Objective, importance
from ..data import PoisonedDataset, make_loader

RetainImportances = tuple[list[Importance], float]  # one per objective, and the seconds of their pass


def shared_retain(
    model: nn.Module,
    dataset: PoisonedDataset,
    trained_on: Sequence[int],
    founds: Mapping[int, Collection[int]],
    objectives: Sequence[str | Objective],
    group_size: int,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    progress: bool = False,
) -> dict[int, RetainImportances]:
    """Importances over `trained_on` without each S_f, by the keys of `founds`.

    The seconds of each are those of the groups that it is made of: what it would have taken alone.

    Args:
        model: the poisoned one.
        dataset: without random augmentation: every visit of a sample must give the same.
        trained_on: positions of S_tr in it.
        founds: |S_f| -> S_f.
        objectives: of the importances.
        group_size: samples that a loss is averaged over.
        batch_size: of the passes.
        seed: of the order of S_tr.
        workers: of the loader.
        progress: whether progress bars are shown.
    """
    order = np.random.default_rng(seed).permutation(trained_on).tolist()
    orders = {key: arranged(order, found) for key, found in founds.items()}
    results: dict[int, RetainImportances] = {}
    parts = shared_groups(orders, group_size)
    # A part that is one order's alone comes last, as it may end with a smaller group.
    for owners in sorted(parts, key=len, reverse=True):
        loader = make_loader(dataset, parts[owners], batch_size=batch_size, shuffle=False, seed=seed, workers=workers)
        start = time.perf_counter()
        part = importance(model, loader, tuple(objectives), group_size=group_size, progress=progress)
        seconds = time.perf_counter() - start
        for key in owners:
            before, spent = results.get(key, ([], 0.0))
            results[key] = (_added(before, part), spent + seconds)
    return results


def arranged(order: Sequence[int], found: Collection[int]) -> list[int]:
    """`order` without S_f; the gaps it leaves are filled from the end, so that all else stays in its place."""
    gaps = set(found)
    kept = sum(sample not in gaps for sample in order)
    fillers = iter([sample for sample in order[kept:] if sample not in gaps])
    return [next(fillers) if sample in gaps else sample for sample in order[:kept]]


def shared_groups(orders: Mapping[int, Sequence[int]], m: int) -> dict[tuple[int, ...], list[int]]:
    """The samples of all groups of m that the same orders have in common, by the keys of these orders.

    A last, smaller group is at the end of its own order.
    """
    owners: dict[tuple[int, ...], list[int]] = defaultdict(list)  # group -> the orders that have it
    for key, order in orders.items():
        for start in range(0, len(order), m):
            owners[tuple(order[start : start + m])].append(key)
    shared: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for group, keys in owners.items():
        shared[tuple(keys)].extend(group)
    return shared


def _added(before: list[Importance], part: list[Importance]) -> list[Importance]:
    if not before:
        return part
    with warnings.catch_warnings():
        warnings.simplefilter("error", PotionWarning)  # a merge that is not exact
        return [one.merge(other) for one, other in zip(before, part, strict=True)]
