"""Partitions of a data set among ranks: each sample on exactly one, in whole groups."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from helpers.toys import samples
from potion_fast.distributed import Ranks, ShareSampler
from potion_fast.distributed.sampler import beginning, joined, within, without
from potion_fast.utils.batches import count_samples


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_remains_is_partitioned_once_and_in_whole_blocks(drawn):
    n, block, size = (drawn.draw(st.integers(low, high)) for low, high in ((0, 40), (1, 6), (1, 7)))
    blocks = [(start, min(start + block, n)) for start in range(0, n, block)]
    done = joined([part for part in blocks if drawn.draw(st.booleans())])
    sampler, seen, lengths = ShareSampler(range(n)), [], []
    with sampler.partitioned(block):
        sampler.skip(done)
        for rank in range(size):
            sampler.ranks = Ranks(None, rank, size)
            share = sampler.ranges()
            assert all(start % block == 0 and (stop % block == 0 or stop == n) for start, stop in share)
            assert list(sampler) == [place for start, stop in share for place in range(start, stop)]
            assert len(sampler) == len(list(sampler))
            seen += list(sampler)
            lengths.append(sum(-(-(stop - start) // block) for start, stop in share))
            count = drawn.draw(st.integers(0, len(sampler)))
            assert sum(stop - start for start, stop in beginning(share, count)) == count
            assert within(beginning(share, count), joined(share))
    assert seen == [place for start, stop in without(done, n) for place in range(start, stop)]
    assert max(lengths) - min(lengths) <= 1
    assert sampler.remaining == [(0, n)] and sampler.block_size == 1


def test_a_share_of_another_sampler_has_its_order():
    dataset = TensorDataset(*samples(10))
    shuffled = RandomSampler(dataset, generator=torch.Generator().manual_seed(3))
    order = list(RandomSampler(dataset, generator=torch.Generator().manual_seed(3)))
    sampler = ShareSampler(shuffled)
    sampler.ranks = Ranks(None, 1, 2)
    assert list(sampler) == order[5:] and sampler.total == 10
    assert count_samples(DataLoader(dataset, 2, sampler=sampler)) == 10
    with sampler.partitioned(1):
        assert sampler.order() == sampler.order() and sorted(sampler.order()) == list(range(10))
    assert sampler.order() != sampler.order()  # the source draws anew
