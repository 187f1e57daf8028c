"""Percentiles of ratios that are spread over processes: those of the whole, and what is exchanged for them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import potion_fast as pf
from helpers.backends import assert_same_bits
from helpers.processes import in_processes
from potion_fast import ops
from potion_fast.distributed import Ranks
from potion_fast.distributed.percentiles import PART, select_shards
from potion_fast.errors import ImportanceError, PotionError, SearchError
from potion_fast.importances import Importance
from potion_fast.ops import reference
from potion_fast.percentiles import schedule

SPECIAL = [0.0, 1.0, 1.0, 2.0, 3.0, 1e-45, 1e-40, 3e38]


def ratios(n: int, seed: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Importances [n], [n] whose ratios are smooth, mostly equal, or nowhere finite."""
    generator = torch.Generator().manual_seed(seed)
    f, o = (10 ** (torch.rand(n, generator=generator) * 12 - 6) for _ in range(2))
    if kind == "equal":
        f, o = (torch.tensor(SPECIAL)[torch.randint(0, len(SPECIAL), (n,), generator=generator)] for _ in range(2))
    return (f, o) if kind != "none" else (f.round().clamp(max=1), torch.zeros(n))


def shard(n: int, cuts: list[int], ranks: Ranks) -> slice:
    """This rank's part of n elements."""
    edges = [0, *sorted(cut % (n + 1) for cut in cuts[: ranks.size - 1]), n]
    return slice(*list(pairwise(edges))[ranks.rank])


def all_percentiles() -> int:
    """On a rank: percentiles of shards against those of the whole, for many shards."""
    ranks, cases = Ranks.of(None), [0]

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)  # the same examples on every rank
    @given(
        n=st.sampled_from([0, 1, 2, 5, 100, 1000]),
        seed=st.integers(0, 10_000),
        kind=st.sampled_from(["smooth", "equal", "none"]),
        cuts=st.lists(st.integers(0, 1000), min_size=3, max_size=3),
        percentiles=st.lists(st.one_of(st.sampled_from([0, 50, 100]), st.floats(0, 100)), max_size=64),
    )
    def check(n, seed, kind, cuts, percentiles):
        f, o = ratios(n, seed, kind)
        part = shard(n, cuts, ranks)
        got = select_shards(f[part], o[part], [float(p) for p in percentiles], ranks)
        assert_same_bits(got, reference.select(f, o, percentiles))
        cases[0] += 1

    check()
    f, o = ratios(3 * PART + 7, 1, "smooth")
    grid = [p for _, (_, p) in zip(range(64), schedule(0.001, 1 / 25, 1.1), strict=False)]
    for cuts in ([5, 5, PART + 9], [0, 0, 0], [PART, 2 * PART, 3 * PART]):
        part = shard(len(f), cuts, ranks)
        assert_same_bits(select_shards(f[part], o[part], grid, ranks), ops.select(f, o, grid))
    return cases[0]


def test_percentiles_of_shards_are_those_of_the_whole_to_the_bit(tmp_path):
    assert min(in_processes(3, all_percentiles, folder=tmp_path)) >= 80


def test_one_process_alone_needs_no_group():
    f, o = ratios(1000, 0, "equal")
    assert_same_bits(select_shards(f, o, [0.0, 33.3, 100.0], Ranks()), ops.select(f, o, [0.0, 33.3, 100.0]))
    assert_same_bits(select_shards(-torch.zeros(3), torch.ones(3), [50.0], Ranks()), torch.zeros(1))


def of_shard(values: torch.Tensor, part: slice) -> Importance:
    return Importance(values[part], {"w": (part.stop - part.start,)}, 3, 3, "xlf", 1, "same")


def exchanged(n: int, count: int) -> tuple[int, int]:
    """On a rank: bytes of the sums, and of the messages, of `thresholds` over n elements in all."""
    ranks, sums, messages = Ranks.of(None), [], []
    all_reduce, all_gather_object = dist.all_reduce, dist.all_gather_object

    def counted_sum(tensor, *args, **options):
        sums.append(tensor.nbytes)
        return all_reduce(tensor, *args, **options)

    def counted_message(values, value, *args, **options):
        messages.append(len(pickle.dumps(value)))
        return all_gather_object(values, value, *args, **options)

    f, o = ratios(n, 3, "smooth")
    part = shard(n, [n // 3], ranks)
    percentiles = torch.linspace(0, 100, count, dtype=torch.float64)
    dist.all_reduce, dist.all_gather_object = counted_sum, counted_message
    try:
        got = pf.thresholds(of_shard(3 * f, part), of_shard(3 * o, part), percentiles, process_group=None)
    finally:
        dist.all_reduce, dist.all_gather_object = all_reduce, all_gather_object
    assert_same_bits(got, pf.thresholds(of_shard(3 * f, slice(0, n)), of_shard(3 * o, slice(0, n)), percentiles))
    return sum(sums), sum(messages)


def bytes_and_failures() -> tuple[list[tuple[int, int]], list[tuple[type, str]]]:
    traffic = [exchanged(n, count) for n, count in ((1000, 64), (300_000, 64), (300_000, 1))]
    last, raised = dist.get_rank() == 1, []
    good = of_shard(torch.ones(4), slice(0, 4))
    bad = replace(good, sums=torch.tensor([1.0, torch.nan, 1.0, 1.0]))
    for forget, p in ((bad if last else good, 50.0), (good, 101.0 if last else 50.0), (good, 60.0 if last else 50.0)):
        with pytest.raises(PotionError) as caught:
            pf.thresholds(forget, good, [p], process_group=None)
        raised.append((type(caught.value), str(caught.value)))
    return traffic, raised


def test_what_is_exchanged_does_not_grow_with_the_model_and_errors_are_everybodys(tmp_path, capsys):
    for rank, (traffic, raised) in enumerate(in_processes(2, bytes_and_failures, folder=tmp_path)):
        for (sums, messages), count in zip(traffic, (64, 64, 1), strict=True):
            assert 0 < sums <= 16 * 1024 + count * 5 * 1024 and messages <= 200 + 10 * count
        assert [kind for kind, _ in raised] == [ImportanceError, SearchError, ImportanceError]
        assert rank == 1 or [text[:8] for _, text in raised[:2]] == ["rank 1: "] * 2
        with capsys.disabled():
            print(
                f"\nrank {rank}: bytes (sums, messages) for (n, K) = (1000, 64), (300000, 64), (300000, 1): {traffic}"
            )
