"""Batches in halves where memory runs out."""

from __future__ import annotations

import pytest
import torch

from potion_fast.errors import OutOfMemoryError
from potion_fast.utils.halving import Halving


def test_a_batch_is_halved_until_it_fits_and_later_ones_come_in_parts_at_once() -> None:
    sizes = []

    def at_most_three(inputs, labels):
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("no")
        return inputs + labels

    halving, x = Halving(), torch.arange(10)
    assert torch.equal(torch.cat(list(halving(at_most_three, x, x))), 2 * x)
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    sizes.clear()
    assert torch.equal(torch.cat(list(halving(at_most_three, x[:4], x[:4]))), 2 * x[:4])
    assert sizes == [2, 2]


def test_a_single_sample_that_does_not_fit_is_an_error() -> None:
    def never(inputs, labels):
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="single sample"):
        list(Halving()(never, torch.zeros(4), torch.zeros(4)))


def test_other_errors_pass() -> None:
    def broken(inputs, labels):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        list(Halving()(broken, torch.zeros(4), torch.zeros(4)))
