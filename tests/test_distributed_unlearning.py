"""`unlearn` by several processes: one result, on all of them, and that of one process up to rounding."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from helpers.processes import in_processes
from helpers.toys import Blobs, assert_same_weights, weights
from potion_fast.distributed import ShareSampler
from potion_fast.errors import DataError, ImportanceError, PotionError, SearchError

FOUND = 10


@pytest.fixture(scope="module")
def blobs(one_thread: None) -> Blobs:
    return Blobs()


def sets(blobs: Blobs) -> tuple[TensorDataset, TensorDataset]:
    """S_f, and the training data without it."""
    both = (slice(None, FOUND), slice(FOUND, None))
    forget, retain = (TensorDataset(blobs.inputs[part], blobs.labels[part]) for part in both)
    return forget, retain


def healed(blobs: Blobs, ddp: bool, share_found: bool) -> Any:
    """On a rank: the importances and the answer; kernels of another device are imitated by a rounding of its own."""
    forget, retain = sets(blobs)
    model = DistributedDataParallel(blobs.model) if ddp else blobs.model
    before = weights(blobs.model)
    shared = DataLoader(retain, batch_size=32, sampler=ShareSampler(retain))
    whole = DataLoader(forget, batch_size=4)
    found: Any = [(inputs * (1 + 1e-6 * dist.get_rank()), labels) for inputs, labels in whole]
    if share_found:
        found = DataLoader(forget, batch_size=4, sampler=ShareSampler(forget))
    result = pf.unlearn(model, shared, found, evaluation_loader=whole)
    assert_same_weights(blobs.model, before)
    trace = [replace(step, seconds=0.0) for step in result.trace]
    return result.forget, result.retain, weights(result.model), repr(trace), result.reason


@pytest.mark.parametrize(("ranks", "ddp", "share_found"), [(2, False, False), (3, True, False), (2, False, True)])
def test_all_ranks_end_with_the_bits_of_the_first(blobs, tmp_path, ranks, ddp, share_found):
    first, *others = in_processes(ranks, healed, blobs, ddp, share_found, folder=tmp_path)
    for other in others:
        for mine, of_first in zip(other[:2], first[:2], strict=True):
            assert torch.equal(mine.sums, of_first.sums)
        assert other[2].keys() == first[2].keys() and other[3:] == first[3:]
        assert all(torch.equal(other[2][name], first[2][name]) for name in first[2])
    forget, retain, healthy, trace, reason = first
    data = [DataLoader(each, batch_size=size) for each, size in zip(sets(blobs), (4, 32), strict=True)]
    alone = pf.unlearn(blobs.model, data[1], data[0])
    torch.testing.assert_close(retain.sums, alone.retain.sums, rtol=1e-6, atol=0)
    torch.testing.assert_close(forget.sums, alone.forget.sums, rtol=1e-6, atol=0)
    assert (retain.samples, retain.terms) == (alone.retain.samples, alone.retain.terms)
    assert (forget.samples, forget.terms) == (FOUND, alone.forget.terms)
    again = pf.ptn_search(blobs.model, forget, retain, data[0])
    assert (repr([replace(step, seconds=0.0) for step in again.trace]), again.reason) == (trace, reason)
    assert_same_weights(again.model, healthy)


class Broken:
    """A loader that cannot be read."""

    def __iter__(self) -> Any:
        raise OSError("the disk is gone")


def failures(blobs: Blobs) -> list[tuple[type[Exception], str]]:
    """On a rank: what each call raised that goes wrong on the last."""
    (forget, retain), last = sets(blobs), dist.get_rank() == dist.get_world_size() - 1
    shared, whole = DataLoader(retain, batch_size=32, sampler=ShareSampler(retain)), list(DataLoader(forget))
    calls: list[dict[str, Any]] = [
        {"forget_loader": Broken() if last else whole, "group_size": 4},
        {"rho": 2.0 if last else 0.2},
        {"amp": torch.float64 if last else None},
        {"retain_loader": DataLoader(retain, batch_size=32)},  # whose share it is, is not said
        {"forget_loader": DataLoader(forget, sampler=ShareSampler(forget))},  # and nothing reads all of it
    ]
    before, raised = copy.deepcopy(weights(blobs.model)), []
    for call in calls:
        with pytest.raises(Exception) as caught:
            pf.unlearn(blobs.model, **{"retain_loader": shared, "forget_loader": whole, "inplace": True, **call})
        assert_same_weights(blobs.model, before)
        raised.append((type(caught.value), str(caught.value)))
    return raised


def test_what_goes_wrong_on_one_rank_is_raised_on_all(blobs, tmp_path):
    good, bad = in_processes(2, failures, blobs, folder=tmp_path)
    assert good[0] == (PotionError, "rank 1: OSError: the disk is gone") and bad[0] == (OSError, "the disk is gone")
    assert [kind for kind, _ in good[1:]] == [SearchError, ImportanceError, ImportanceError, DataError]
    assert [kind for kind, _ in bad[1:]] == [SearchError, ImportanceError, ImportanceError, DataError]
    assert "does not say whether" in good[3][1] and "evaluation_loader that reads everything" in good[4][1]


def test_a_wrapped_model_has_the_names_of_the_module_within(blobs):
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)  # as it is, but for the exchange of its buffers
    torch.nn.Module.__init__(wrapped)
    wrapped.module = copy.deepcopy(blobs.model)
    forget, retain = (pf.importance(blobs.model, DataLoader(each, batch_size=32), group_size=1) for each in sets(blobs))
    plan = pf.EditPlan(wrapped, forget, retain, [1.0])
    plan.apply(0)
    assert plan.dampened(0) > 0
    with pytest.raises(ImportanceError, match="weights"):
        retain.check_model(wrapped)
    plan.reset()
    retain.check_model(wrapped)
