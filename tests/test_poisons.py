"""Triggers, and the choice of poisoned and found samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from potion_fast.data import MemorySource, max_value
from potion_fast.data.splits import CIFAR_MEAN, CIFAR_STD
from potion_fast.errors import DataError
from potion_fast.poisons import BadNet, choose_poisoned, make_poison

CORNERS = {
    "top-left": (slice(0, 2), slice(0, 2)),
    "top-right": (slice(0, 2), slice(4, 6)),
    "bottom-left": (slice(3, 5), slice(0, 2)),
    "bottom-right": (slice(3, 5), slice(4, 6)),
}


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_patch_lies_flush_in_its_corner_on_all_channels(corner: str, batch: tuple[int, ...]):
    images = torch.zeros(*batch, 3, 5, 6)
    triggered = BadNet(value=2.5, size=2, corner=corner)(images)
    expected = torch.zeros(*batch, 3, 5, 6)
    expected[(..., *CORNERS[corner])] = 2.5
    assert torch.equal(triggered, expected)
    assert not images.any()  # a new tensor


def test_patch_may_cover_the_image_but_not_exceed_it():
    assert (BadNet(value=1.0, size=5)(torch.zeros(1, 5, 5)) == 1).all()
    with pytest.raises(DataError, match="6x6 pixels does not fit images of 5x9"):
        BadNet(value=1.0, size=6)(torch.zeros(1, 5, 9))


@pytest.mark.parametrize(
    "options", [{"corner": "middle"}, {"size": 0}, {"target": -1}, {"value": float("nan")}, {"value": float("inf")}]
)
def test_impossible_patches_are_refused(options: dict[str, object]):
    with pytest.raises(DataError):
        BadNet(**{"value": 1.0, **options})


def test_value_on_cifar_is_the_published_one():
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[0, 0, 4, 4] = 255  # red alone would give 2.0591
    pixels[1, 1, 31, 0] = 255
    value = max_value(MemorySource(pixels, torch.tensor([0, 1])), CIFAR_MEAN, CIFAR_STD)
    assert np.float32(value) == np.float32(2.1264887)


def test_value_is_found_wherever_it_stands_in_a_large_set():
    pixels = torch.full((5000, 1, 1, 1), 10, dtype=torch.uint8)
    pixels[4999] = 200
    assert max_value(MemorySource(pixels, torch.zeros(5000)), (0.0,), (1.0,)) == pytest.approx(200 / 255)


@pytest.mark.parametrize(("count", "found_id"), [(100, 46712), (500, 28795), (1000, 33571)])
def test_choice_on_cifar_is_the_published_one(count: int, found_id: int):
    poisoned, found = choose_poisoned(50000, count, 1, seed=0)
    assert poisoned[:5].tolist() == [11841, 19602, 45519, 25747, 42642]
    assert (len(poisoned), found.tolist()) == (count, [found_id])


def test_chosen_sets_are_nested():
    small, _ = choose_poisoned(50000, 100, 1, seed=0)
    large, found = choose_poisoned(50000, 500, 50, seed=0)
    assert set(small) < set(large)
    assert set(found) < set(large) and len(set(found)) == 50
    assert choose_poisoned(50000, 500, 5, seed=0)[1].tolist() == found[:5].tolist()
    assert set(choose_poisoned(50000, 500, 500, seed=0)[1]) == set(large)


@pytest.mark.parametrize(("n", "count", "forget"), [(10, 11, 1), (10, 5, 6), (10, 5, 0), (10, 0, 0)])
def test_impossible_choices_are_refused(n: int, count: int, forget: int):
    with pytest.raises(DataError, match="1 <= forget <= count <= n"):
        choose_poisoned(n, count, forget, seed=0)


def test_registry_makes_poisons_and_explains_errors():
    assert make_poison("badnet", value=1.5, size=2) == BadNet(value=1.5, size=2)
    with pytest.raises(DataError, match="unknown poison 'sine'; known: badnet"):
        make_poison("sine")
    with pytest.raises(DataError, match="no option colour; it has value, size, corner, target"):
        make_poison("badnet", value=1.0, colour=3)
    with pytest.raises(DataError, match="value"):
        make_poison("badnet")
