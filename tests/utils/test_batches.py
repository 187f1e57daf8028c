"""Loaders: how many samples they give, what they must not be, and their samples in groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import potion_fast as pf
from potion_fast.errors import DataError
from potion_fast.utils.batches import check_loader, check_rereadable, chunks, count_samples

X, IDS, Y = torch.arange(20.0).view(10, 2), torch.arange(30).view(10, 3), torch.arange(10)


class Batches(IterableDataset):
    def __iter__(self):
        yield X, Y


class OwnIterator(Dataset):
    """A data set that says itself what it is iterated over as."""

    def __iter__(self):
        yield X, Y


class Emptied(IterableDataset):
    """Gives what is left of one generator, each time it is read."""

    def __init__(self):
        self.left = generator()

    def __iter__(self):
        return self.left


def generator():
    yield X, Y


def test_loaders_that_can_be_read_again():
    for loader in (
        [(X, Y)],
        ((X, Y),),
        DataLoader(TensorDataset(X, Y), 3),
        Batches(),
        DataLoader(Batches(), None),
        OwnIterator(),
    ):
        check_loader(loader)
        check_rereadable(loader, "forget_loader")


@pytest.mark.parametrize(
    "loader", [generator(), iter([(X, Y)]), map(tuple, [(X, Y)]), iter(DataLoader(TensorDataset(X), 3))], ids=str
)
def test_what_gives_its_batches_once_may_be_read_once_and_no_more(loader):
    check_loader(loader)
    with pytest.raises(DataError, match="forget_loader is read more than once and a .* gives its batches once"):
        check_rereadable(loader, "forget_loader")


def test_a_loader_around_a_generator_is_refused_before_the_long_pass():
    """Nothing tells that it can be read once, until it is read again."""
    read = []

    def retain():
        read.append(1)
        yield X, Y

    with pytest.raises(DataError, match="gave no batch.*only once"):
        pf.unlearn(nn.Linear(2, 10), retain(), DataLoader(Emptied(), None))
    assert not read


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (TensorDataset(X, Y), "data set .TensorDataset.*wrap it in a DataLoader"),
        (Subset(TensorDataset(X, Y), [0, 1]), "data set .Subset.*wrap it in a DataLoader"),
        (X, "a Tensor, not a loader"),
        (np.zeros((3, 4)), "a ndarray, not a loader"),
        ({"x": X, "labels": Y}, "a dict, not a loader"),
        ((X, Y), "one batch"),
        ([np.zeros((3, 4)), np.zeros(3)], "one batch"),
        (None, "got a NoneType"),
        (7, "got a int"),
    ],
    ids=str,
)
def test_what_gives_no_batches_is_refused(loader, match):
    for read in (check_loader, count_samples, lambda given: check_rereadable(given, "the loader")):
        with pytest.raises(DataError, match=match):
            read(loader)


def test_samples_are_counted_whatever_the_form_of_a_batch():
    for loader in ([X[:4], X[4:]], [(X, Y)], [{"x": X, "label": Y}], [((X, IDS), Y)], [X.numpy()]):
        assert count_samples(loader) == 10
    assert count_samples(DataLoader(TensorDataset(X, Y), 3)) == 10
    assert count_samples(DataLoader(TensorDataset(X, Y), 3, drop_last=True)) == 9


@pytest.mark.parametrize("size", [1, 3, 4, 12, "batch"])
def test_groups_of_several_inputs_are_those_of_one(size):
    plain, several = ([(X[k : k + 4], Y[k : k + 4]) for k in (0, 4, 8)], [])
    for k in (0, 4, 8):
        several.append({"x": X[k : k + 4], "ids": IDS[k : k + 4], "flag": True, "labels": Y[k : k + 4]})
    for one, other in zip(chunks(plain, size), chunks(several, size), strict=True):
        assert torch.equal(one.inputs, other.inputs.kwargs["x"]) and torch.equal(one.labels, other.labels)
        assert torch.equal(other.inputs.kwargs["ids"], IDS[one.labels]) and other.inputs.kwargs["flag"] is True
        assert one[2:4] == other[2:4]


def test_the_order_is_that_of_every_input():
    def orders(x, ids):
        return [chunk.order for chunk in chunks([{"x": x, "ids": ids}], 2, with_order=True)]

    want = orders(X, IDS)
    assert want == orders(X.clone(), IDS.clone())
    for other in ((X.flip(0), IDS), (X, IDS.flip(0))):
        assert orders(*other) != want
