from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import potion_fast as pf
from helpers.processes import in_processes
from helpers.toys import Blobs, assert_same_weights, weights
from potion_fast.distributed import ShareSampler
from potion_fast.errors import DataError, ImportanceError, PotionError, SearchError
from potion_fast.search import STRATEGIES

SEARCHES = [
    {"strategy": strategy, "rho": rho, **options}
    for strategy in STRATEGIES
    for rho, options in ((0.2, {}), (0.0, {"max_steps": 70}))
] + [{"strategy": "sequential", "s_step": 3.0}, {"strategy": "batched", "s_step": 1.02, "rho": 0.9}]


class Counted:
    """A loader that counts how often it is read, and may fail on one of the reads."""

    def __init__(self, loader, fails_at=None, error=OSError):
        self.loader, self.reads, self.fails_at, self.error = loader, 0, fails_at, error

    def __iter__(self):
        self.reads += 1
        if self.reads == self.fails_at:
            raise self.error("the disk is gone")
        return iter(self.loader)


@pytest.fixture(scope="module")
def subject(one_thread):
    blobs = Blobs()
    return (
        blobs.model,
        pf.importance(blobs.model, blobs.forget(), group_size=1),
        pf.importance(blobs.model, blobs.retain(), group_size=1),
        list(blobs.forget()),
    )


def answer(result):
    trace = [replace(step, seconds=0.0) for step in result.trace]
    kept = None if result.kept is None else replace(result.kept, seconds=0.0)
    return weights(result.model), trace, kept, result.reason, result.initial_accuracy, result.warnings


def assert_same_answer(got, want):
    assert repr(got[1:]) == repr(want[1:])  # NaN is written alike, and every float in full
    assert got[0].keys() == want[0].keys()
    for name, tensor in got[0].items():
        assert torch.equal(tensor, want[0][name]), name


def all_searches(model, forget, retain, loader):
    """On a rank: the answers of all searches, the reads of S_f by each, and the caller's model afterwards."""
    answers, reads, before = [], [], weights(model)
    for options in SEARCHES:
        counted = Counted(loader)
        answers.append(answer(pf.ptn_search(model, forget, retain, counted, **options)))
        reads.append(counted.reads)
    assert_same_weights(model, before)
    if dist.get_rank() == 0:  # nobody else is asked
        answers.append(answer(pf.ptn_search(model, forget, retain, loader, process_group=False)))
    some = dist.new_group([0, dist.get_world_size() - 1])
    if dist.get_rank() in (0, dist.get_world_size() - 1):
        answers.append(answer(pf.ptn_search(model, forget, retain, loader, process_group=some)))
    return answers, reads


@pytest.mark.parametrize("n", [2, 3])
def test_every_rank_ends_where_one_process_does(subject, tmp_path, n):
    wanted, alone = [], []
    for options in SEARCHES:
        counted = Counted(subject[3])
        wanted.append(answer(pf.ptn_search(*subject[:3], counted, **options)))
        alone.append(counted.reads)
    default = answer(pf.ptn_search(*subject))
    assert {want[3] for want in wanted} == {"threshold passed"} and max(len(want[1]) for want in wanted) > 64
    for answers, reads in in_processes(n, all_searches, *subject, folder=tmp_path):
        for got, want in zip(answers[: len(wanted)], wanted, strict=True):
            assert_same_answer(got, want)
        for got in answers[len(wanted) :]:
            assert_same_answer(got, default)
        for options, mine, of_one in zip(SEARCHES, reads, alone, strict=True):
            if options["strategy"] == "sequential":
                assert 1 + (of_one - 1) // n <= mine <= 1 + -(-(of_one - 1) // n)  # each rank its part of the steps


def failures(model, forget, retain, loader):
    """On a rank: what each search raised that went wrong on the last rank, and that the model is as it was."""
    last, before, raised = dist.get_rank() == dist.get_world_size() - 1, weights(model), []

    def attempt(forget=forget, retain=retain, loader=loader, **options):
        mine = copy.deepcopy(model)
        with pytest.raises(PotionError if not last else Exception) as caught:
            pf.ptn_search(mine, forget, retain, loader, inplace=True, **options)
        assert_same_weights(mine, before)
        raised.append((type(caught.value), str(caught.value)))

    for strategy in STRATEGIES:
        for read in (1, 2):
            attempt(loader=Counted(loader, fails_at=read if last else None), strategy=strategy)
    attempt(forget=replace(forget, fingerprint="another") if last else forget)
    attempt(rho=2.0 if last else 0.2)
    other = replace(retain, sums=retain.sums.clone())
    other.sums[3] *= 2 if last else 1
    attempt(retain=other)
    attempt(rho=0.3 if last else 0.2)
    attempt(loader=torch.utils.data.DataLoader([], sampler=ShareSampler(range(4))))
    return raised


def test_what_goes_wrong_on_one_rank_ends_the_search_on_all_with_the_model_as_it_was(subject, tmp_path):
    good, bad = in_processes(2, failures, *subject, folder=tmp_path)
    reads = 2 * len(STRATEGIES)
    assert bad[:reads] == [(OSError, "the disk is gone")] * reads
    assert good[:reads] == [(PotionError, "rank 1: OSError: the disk is gone")] * reads
    kinds = [ImportanceError, SearchError, ImportanceError, ImportanceError, DataError]
    assert [kind for kind, _ in bad[reads:]] == [kind for kind, _ in good[reads:]] == kinds
    words = ["compute them again", "rho must be in", "importances is", "search is", "share of the forget set"]
    for word, (_, own_error), (_, other_error) in zip(words, bad[reads:], good[reads:], strict=True):
        assert word in own_error and word in other_error


def test_distributed_data_parallel_is_unwrapped(subject):
    model, *rest = subject
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)  # as it is, but for the exchange of its buffers
    torch.nn.Module.__init__(wrapped)
    wrapped.module = copy.deepcopy(model)
    result = pf.ptn_search(wrapped, *rest, inplace=True)
    assert result.model is wrapped.module
    assert_same_answer(answer(result), answer(pf.ptn_search(*subject)))


def test_in_one_process_nothing_is_exchanged(subject, monkeypatch):
    monkeypatch.setattr(dist, "all_gather_object", pytest.fail)
    monkeypatch.setattr(dist, "all_reduce", pytest.fail)
    assert pf.ptn_search(*subject).reason == "threshold passed"
    assert pf.ptn_search(*subject, process_group=False, strategy="batched").reason == "threshold passed"
