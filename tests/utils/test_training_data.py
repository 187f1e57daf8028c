"""Training sets that are read by index."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from potion_fast.errors import DataError
from potion_fast.utils.training_data import TrainingData, check_indices


def numbered(samples: int = 10) -> TensorDataset:
    return TensorDataset(torch.arange(samples).float()[:, None], torch.arange(samples) % 3)


class Pairs(Dataset):
    """Samples that are mappings, as Hugging Face's."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((2,), float(index)), "labels": torch.tensor(index % 2)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def test_samples_come_in_the_order_that_was_asked_for() -> None:
    data = TrainingData.of(numbered(), batch_size=4)
    batches = list(data.batches(torch.tensor([7, 0, 7, 3, 9])))
    assert [inputs.flatten().tolist() for inputs, _ in batches] == [[7, 0, 7, 3], [9]]
    assert torch.cat([labels for _, labels in batches]).tolist() == [1, 0, 1, 0, 0]


def test_a_loader_gives_its_data_set_collate_and_batch_size_but_not_its_order() -> None:
    def doubled(samples):
        inputs, labels = zip(*samples, strict=True)
        return 2 * torch.stack(inputs), torch.stack(labels)

    loader = DataLoader(numbered(), batch_size=3, shuffle=True, collate_fn=doubled)
    data = TrainingData.of(loader)
    assert (data.batch_size, data.workers, len(data)) == (3, 0, 10)
    assert next(data.batches([1, 2]))[0].flatten().tolist() == [2, 4]


def test_mappings_are_read() -> None:
    inputs, labels = next(TrainingData.of(Pairs()).batches([3, 4]))
    assert inputs.kwargs["x"].tolist() == [[3, 3], [4, 4]]
    assert labels.tolist() == [1, 0]


def test_reading_draws_no_random_number_of_the_callers() -> None:
    data, state = TrainingData.of(numbered()), torch.get_rng_state()
    list(data.batches(range(10)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("train_set", "words"),
    [
        (Stream(), "read by index"),
        (torch.zeros(3), "TensorDataset"),
        ((torch.zeros(3), torch.zeros(3)), "TensorDataset"),
        ({"x": 1}, "TensorDataset"),
        (iter([]), "read by index"),
        ([], "empty"),
        (DataLoader(numbered(), batch_size=None), "items are batches"),
    ],
)
def test_what_is_no_indexed_set_is_refused(train_set, words: str) -> None:
    with pytest.raises(DataError, match=words):
        TrainingData.of(train_set)


def test_a_collate_function_that_drops_samples_is_named() -> None:
    data = TrainingData.of(
        DataLoader(numbered(), collate_fn=lambda samples: torch.utils.data.default_collate(samples[:-1]))
    )
    with pytest.raises(DataError, match="batch of 1"):
        list(data.batches([1, 2], batch_size=2))


def test_samples_without_labels_are_refused() -> None:
    with pytest.raises(DataError, match="no labels"):
        list(TrainingData.of(TensorDataset(torch.zeros(3, 2))).batches([0]))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_batch_sizes_are_checked(batch_size) -> None:
    with pytest.raises(DataError, match="batch_size"):
        TrainingData.of(numbered(), batch_size=batch_size)


def test_indices_are_sorted_and_each_once() -> None:
    for given in ([3, 1, 3], torch.tensor([3, 1], dtype=torch.int32), {1, 3}):
        assert check_indices(given, 4, "found").tolist() == [1, 3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no samples"),
        ([4], "index 4"),
        ([-1], "index -1"),
        ([0.5], "whole numbers"),
        ([[0, 1]], "one dimension"),
        ("0,1", "not '0,1'"),
        ([None], "whole numbers"),
        (torch.tensor([True, False]), "mask"),
    ],
)
def test_what_are_no_indices_is_refused(given, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_indices(given, 4, "found")
