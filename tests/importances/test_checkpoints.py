"""Long passes: what is kept when one is interrupted, and that going on gives the same bits."""

from __future__ import annotations

import os
import signal
import time
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import potion_fast as pf
from helpers.toys import batches, net, samples
from potion_fast.distributed import ShareSampler
from potion_fast.errors import DataError, FileError, ImportanceError
from potion_fast.importances.checkpoints import FILE_KEY
from potion_fast.importances.runner import order_fingerprint
from potion_fast.utils.batches import chunks
from potion_fast.utils.checksummed import load_checksummed
from potion_fast.utils.interrupts import deferred_interrupts


class InterruptedPassError(Exception):
    pass


def interrupted_after(loader, count):
    """The loader's first batches, then an error, as a disk or a network would give."""
    yield from loader[:count]
    raise InterruptedPassError


@pytest.mark.parametrize("group_size", [1, 3, 5, 16, "batch"])
@pytest.mark.parametrize("objective", ["ssd", ["xlf", "lf", "ssd"]])
@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_a_resumed_pass_gives_the_same_bits(tmp_path, count, objective, group_size):
    model, loader = net(), batches(*samples(26), 6)
    want = pf.importance(model, loader, objective, group_size=group_size)
    path = tmp_path / "pass.safetensors"
    with pytest.raises(InterruptedPassError):
        pf.importance(model, interrupted_after(loader, count), objective, group_size=group_size, checkpoint=path)
    assert path.exists() == any(chunk.closes for chunk in chunks(loader[:count], group_size))
    got = pf.importance(model, loader, objective, group_size=group_size, checkpoint=path, resume=True)
    for one, other in zip(*((r if isinstance(r, list) else [r]) for r in (got, want)), strict=True):
        assert torch.equal(one.sums, other.sums) and (one.samples, one.terms) == (other.samples, other.terms)
    assert not path.exists()


def test_a_checkpoint_is_written_every_so_many_seconds(tmp_path):
    path, seen = tmp_path / "pass.safetensors", []

    def slow(loader):
        for batch in loader:
            seen.append(path.exists())
            time.sleep(0.03)
            yield batch

    pf.importance(net(), slow(batches(*samples(8), 2)), group_size=1, checkpoint=path, checkpoint_seconds=0.02)
    assert seen == [False, True, True, True]


@pytest.mark.parametrize("deferred", [True, False])
def test_ctrl_c_in_the_middle_of_a_batch_never_leaves_a_part_of_it(tmp_path, deferred):
    """A program that defers interrupts finishes the batch and keeps it; any other keeps the last checkpoint."""
    model, loader, path = net(), batches(*samples(12), 4), tmp_path / "pass.safetensors"
    calls, armed = [], False

    def losses(outputs, labels):
        if len(outputs) == 4:  # a whole batch: checks are of other numbers of samples
            calls.append(len(outputs))
        if armed and len(outputs) == 4 and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return outputs.square().sum(1)

    want = pf.importance(model, loader, losses, group_size=1)
    assert calls == [4, 4, 4]
    calls, armed = [], True
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), deferred_interrupts() if deferred else nullcontext():
        pf.importance(model, loader, losses, group_size=1, checkpoint=path, checkpoint_seconds=0)
    assert signal.getsignal(signal.SIGINT) == before
    assert calls == [4, 4]
    content, _ = load_checksummed(path, FILE_KEY, "interrupted pass")
    assert content["position"]["samples"] == (8 if deferred else 4)
    armed = False
    got = pf.importance(model, loader, losses, group_size=1, checkpoint=path, resume=True)
    assert torch.equal(got.sums, want.sums)


def test_a_pass_takes_no_signal_over(tmp_path):
    """Without a program that asks for it, Ctrl-C is the caller's, in the middle of a batch too."""
    handler, handlers = signal.getsignal(signal.SIGINT), []

    def losses(outputs, labels):
        handlers.append(signal.getsignal(signal.SIGINT))
        return outputs.square().sum(1)

    loader = batches(*samples(8), 4)
    pf.importance(net(), loader, losses, group_size=1, checkpoint=tmp_path / "pass", checkpoint_seconds=0)
    assert set(handlers) == {handler}


def test_an_error_within_a_batch_does_not_leave_half_of_it(tmp_path):
    model, loader, path = net(), batches(*samples(12), 4), tmp_path / "pass.safetensors"
    loader[2][0][1] = torch.nan
    with pytest.raises(ImportanceError, match="sample 9"):
        pf.importance(model, loader, group_size=1, checkpoint=path, checkpoint_seconds=0)
    loader[2] = loader[1]
    got = pf.importance(model, loader, group_size=1, checkpoint=path, resume=True)
    assert torch.equal(got.sums, pf.importance(model, loader, group_size=1).sums)


def checkpoint_of(path, model, loader, **options):
    with pytest.raises(InterruptedPassError):
        pf.importance(model, interrupted_after(loader, 2), checkpoint=path, **{"group_size": 1, **options})


def test_another_order_of_the_samples_is_an_error(tmp_path):
    model, loader, path = net(), batches(*samples(12), 4), tmp_path / "pass.safetensors"
    checkpoint_of(path, model, loader)
    with pytest.raises(DataError, match="another order"):
        pf.importance(model, loader[::-1], group_size=1, checkpoint=path, resume=True)
    with pytest.raises(DataError, match="not those of the pass"):
        pf.importance(model, batches(*samples(12), 5), group_size=1, checkpoint=path, resume=True)
    with pytest.raises(DataError, match="gave 4 samples, the checkpoint had 8"):
        pf.importance(model, loader[:1], group_size=1, checkpoint=path, resume=True)
    assert path.exists()


def test_a_checkpoint_of_another_pass_is_an_error(tmp_path):
    model, loader, path = net(), batches(*samples(12), 4), tmp_path / "pass.safetensors"
    checkpoint_of(path, model, loader)
    for options, what in (
        ({"objective": "lf"}, "objectives"),
        ({"group_size": 2}, "group size"),
        ({"dtype": torch.float64}, "dtype"),
        ({"amp": torch.bfloat16}, "amp"),
    ):
        with pytest.raises(ImportanceError, match=f"of another pass, its {what}"):
            pf.importance(model, loader, checkpoint=path, resume=True, **{"group_size": 1, **options})
    with pytest.raises(ImportanceError, match="fingerprint"):
        pf.importance(net(seed=3), loader, group_size=1, checkpoint=path, resume=True)


@pytest.mark.parametrize("content", [b"", b"something else", None])
def test_a_torn_or_foreign_file_is_an_error(tmp_path, content):
    model, loader, path = net(), batches(*samples(12), 4), tmp_path / "pass.safetensors"
    checkpoint_of(path, model, loader)
    path.write_bytes(path.read_bytes()[:-5] if content is None else content)
    with pytest.raises(FileError, match="truncated"):
        pf.importance(model, loader, group_size=1, checkpoint=path, resume=True)
    pf.importance(model, loader, group_size=1).save(path)
    with pytest.raises(FileError, match="no interrupted pass"):
        pf.importance(model, loader, group_size=1, checkpoint=path, resume=True)


def test_resume_needs_a_checkpoint():
    with pytest.raises(ImportanceError, match="checkpoint=PATH"):
        pf.importance(net(), batches(*samples(4), 4), group_size=1, resume=True)


def test_where_no_checkpoint_can_be_written_is_said_before_anything_is_read(tmp_path):
    read = []
    loader = (read.append(1) or batch for batch in batches(*samples(8), 4))
    for path, match in ((tmp_path, "it is a folder"), (tmp_path / "none" / "pass", "does not exist")):
        with pytest.raises(FileError, match=match):
            pf.importance(net(), loader, group_size=1, checkpoint=path)
    with pytest.raises(ImportanceError, match="path of a file"):
        pf.importance(net(), loader, group_size=1, checkpoint=3)
    assert not read and not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 11, 30])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 20])
def test_pieces_hold_whole_groups_or_parts_of_one(size, batch):
    inputs = torch.arange(20)
    seen, begun = [], 0
    for chunk in chunks(list(inputs.split(batch)), size):
        assert 1 <= len(chunk.inputs) <= batch + min(size, batch) - 1
        if chunk.groups > 1:
            assert begun == 0 and chunk.closes and len(chunk.inputs) == chunk.groups * size
        begun = 0 if chunk.closes else begun + len(chunk.inputs)
        assert begun < size
        seen.append(chunk.inputs)
    assert torch.equal(torch.cat(seen), inputs)
    if size <= batch and 20 % batch == 0:
        assert begun == 0


def test_an_order_of_samples_has_the_fingerprint_that_files_on_disk_have():
    assert order_fingerprint(ShareSampler(range(7))) == "7 in their order"
    indices = np.array([4, 1, 3, 0, 2], dtype=np.int64)
    for keys in (indices.tolist(), [(int(i), "x") for i in indices]):
        sampler = ShareSampler(range(5))
        with sampler.partitioned(1):
            sampler._order = keys
            assert order_fingerprint(sampler) == f"5, CRC-32 {zlib.crc32(indices.tobytes()):08x}"
