"""select_and_partition: thresholds, and the weights that they change, as select and then partition give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.backends import Backend, assert_same_bits, numbers, opcheck
from helpers.products import threads
from helpers.ratios import KINDS, assert_same_groups, groups_by_definition, importances, limited, poisoned
from potion_fast import ops
from potion_fast.ops import reference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 3, 1000, 65_537, 300_007])
def test_select_and_partition_is_select_and_then_partition(backend: Backend, kind: str, n: int) -> None:
    forget, retain = importances(kind, n)
    for percentiles in ([99.96, 95.0, 97.0, 97.0], [99.0, 30.0], []):
        with backend.use(), poisoned():
            got = ops.select_and_partition(forget.to(backend.device), retain.to(backend.device), percentiles, 0.9)
        alphas = reference.select(forget, retain, percentiles)
        assert_same_bits(got[0], alphas)
        assert_same_groups(got[1:], groups_by_definition(forget, retain, alphas, 0.9))


def test_ten_million_weights_end_as_the_reference_has_them(backend: Backend) -> None:
    if backend.name == "triton":
        pytest.skip("no kernel of its own")
    forget, retain = importances("lognormal", 10_000_019)
    weights = numbers(len(forget), 3)
    with backend.use():
        read = (t.to(backend.device) for t in (forget, retain))
        alphas, index, f, r, starts = (t.cpu() for t in ops.select_and_partition(*read, [99.96, 97.3, 95.0]))
    for k, alpha in enumerate(alphas.tolist()):
        chosen = slice(int(starts[k + 1]))
        values = weights[index[chosen]]
        reference.dampen(values, f[chosen], r[chosen], alpha, 1.0)
        edited, wanted = weights.clone(), weights.clone()
        edited[index[chosen]] = values
        reference.dampen(wanted, forget, retain, alpha, 1.0)
        assert_same_bits(edited, wanted)


@pytest.mark.parametrize("instructions", ["baseline", "AVX2", "AVX-512"])
@pytest.mark.parametrize("kind", ["any", "lognormal", "subnormal"])
def test_every_instruction_set_gives_the_same_bits(kind: str, instructions: str) -> None:
    forget, retain = importances(kind, 200_003)
    with limited(instructions), poisoned():
        alphas, *groups = ops.select_and_partition(forget, retain, [99.0, 96.0], 0.7)
    assert_same_groups(groups, groups_by_definition(forget, retain, alphas, 0.7))


def test_the_number_of_threads_changes_neither_bits_nor_order() -> None:
    forget, retain = importances("lognormal", 700_001)
    for percentiles in ([99.9, 96.0, 98.0], [99.9, 40.0]):
        alphas = reference.select(forget, retain, percentiles)
        want = groups_by_definition(forget, retain, alphas, 1.0)
        for number in (1, 2, 3):
            with threads(number):
                assert_same_groups(ops.select_and_partition(forget, retain, percentiles)[1:], want)


def test_past_2_to_the_31_elements() -> None:
    """Zeros that no one has written take no memory; a place past the 31 bits needs int64."""
    if ops.native is None:
        pytest.skip(ops.native_problem)
    n = 2**31 + 65_537
    try:
        forget, retain = (torch.from_numpy(np.zeros(n, np.float32)) for _ in range(2))
    except MemoryError:
        pytest.skip("no address space for two arrays of 8 GiB")
    places = [5, 2**31 - 1, 2**31, 2**31 + 65_536, 77]
    for place, f in zip(places, (8.0, 2.0, 4.0, 16.0, 3.0), strict=True):
        forget[place], retain[place] = f, 1.0
    alphas, index, f, r, starts = ops.select_and_partition(forget, retain, [50.0, 75.0])
    assert alphas.tolist() == [4.0, 8.0]
    assert index.dtype == torch.int64 and index.tolist() == [2**31 + 65_536, 5]
    assert f.tolist() == [16.0, 8.0] and r.tolist() == [1.0, 1.0] and starts.tolist() == [0, 1, 2]
    found = index.clone()
    assert ops.take([forget[:7], forget[7:]], [0, 7], [0, 1, 2], found.sort().values).tolist() == [8.0, 16.0]
    ops.put([forget[:7], forget[7:]], [0, 7], [0, 1, 2], found.sort().values, torch.tensor([1.0, 2.0]))
    assert forget[5] == 1 and forget[-1] == 2


def test_opcheck(backend: Backend) -> None:
    forget, retain = (torch.rand(33, device=backend.device) for _ in range(2))
    opcheck(backend, "select_and_partition", forget, retain, [10.0, 90.0], 1.0)
