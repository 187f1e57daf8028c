"""Data sets of the user's own: every form of image and of label that people have, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from potion_fast.errors import DataError
from potion_fast.user import user_source
from potion_fast.user.samples import class_numbers, pixels_of
from potion_fast.user.user_source import UserSource

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)  # [H, W, C]
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)  # [C, H, W]
GREY = PIXELS[:, :, 0]


class Listed:
    """A map-style data set of what it is given, with the attributes that it is given."""

    def __init__(self, samples: list[Any], **attributes: Any) -> None:
        self.samples = samples
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([])


# --- images


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(PIXELS), PIXELS),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=2)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), np.repeat(GREY[..., None], 3, axis=2)),
        (TENSOR, PIXELS),
        (PIXELS, PIXELS),
        (PIXELS[:, ::-1], PIXELS[:, ::-1]),
        (PIXELS.transpose(2, 0, 1), PIXELS),
        (torch.from_numpy(PIXELS), PIXELS),
        (TENSOR / 255, PIXELS),
        ((TENSOR / 255).half(), PIXELS),
        ((TENSOR / 255).double(), PIXELS),
        (PIXELS / 255, PIXELS),
        (TENSOR.long(), PIXELS),
        (TENSOR.short().numpy(), PIXELS),
        (PIXELS.astype(np.uint16) * 257, PIXELS),
        ((PIXELS.astype(np.uint16) * 257).astype(">u2"), PIXELS),
        (TENSOR > 100, (PIXELS > 100) * np.uint8(255)),
        (TENSOR[:1], PIXELS[..., :1]),
        (TENSOR[0], PIXELS[..., :1]),
        (GREY, PIXELS[..., :1]),
        (GREY[..., None], PIXELS[..., :1]),
        (np.dstack([PIXELS, GREY]), np.dstack([PIXELS, GREY])),
        (TENSOR[[0, 1, 2, 0]], np.dstack([PIXELS, GREY])),
        (TENSOR[:2], PIXELS[..., :2]),
        (np.repeat(PIXELS, 4, axis=2), np.repeat(PIXELS, 4, axis=2)),
    ],
)
def test_an_image_of_any_form_has_the_same_pixels(image: Any, expected: np.ndarray):
    pixels = pixels_of(image)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_floating_point_pixels_are_rounded_and_a_little_overshoot_is_clipped():
    assert pixels_of(torch.tensor([[0.0, 0.25, 0.5, 0.999, 1.0005, -0.0005]]))[0, 0].tolist() == [
        0,
        64,
        128,
        255,
        255,
        0,
    ]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (TENSOR / 255 * 4 - 2, "its values .float32. go from -2 to 1.*not normalised yet"),
        (TENSOR.float(), "its values .float32. go from 0 to 248"),
        (TENSOR.long() - 1, "its values .int64. go from -1 to"),
        (TENSOR.int() * 2, "its values .int32. go from 0 to 496"),
        (torch.full((3, 2, 2), float("nan")), "its values .float32. go from nan to nan"),
        (torch.tensor([[0.5, float("inf")]]), "go from 0.5 to inf"),
        (TENSOR[None], r"it is torch.uint8 \[1, 3, 5, 6\], and must be \[C, H, W\] or \[H, W\]"),
        (PIXELS[None], r"it is uint8 \[1, 5, 6, 3\], and must be \[H, W, C\] or \[H, W\]"),
        (torch.zeros(0, 3, dtype=torch.uint8), "of one pixel or more"),
        (torch.zeros(3, 2, 2, dtype=torch.complex64), "it is of complex64"),
        (np.array([["a"]]), "it is of <U1"),
        ("a.png", "it is a str"),
        (None, "it is a NoneType"),
        (Image.fromarray(GREY.astype(np.float32)), "floating-point numbers, whose range is not known"),
    ],
)
def test_what_is_no_image_is_named(image: Any, message: str):
    with pytest.raises(DataError, match=f"image 1 of the training set cannot be used: .*{message}"):
        UserSource(Listed([(TENSOR, 0), (image, 0)]), None, "the training set")


# --- labels


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0, 1],
        [np.int32(2), np.uint8(0), np.int64(1)],
        [torch.tensor(2), torch.tensor(0), torch.tensor(1)],
        [torch.tensor([2]), torch.tensor([0]), torch.tensor([1])],
        [2.0, 0.0, 1.0],
        torch.tensor([2, 0, 1], dtype=torch.int16),
        torch.tensor([[2], [0], [1]]),
        torch.tensor([[2.0], [0.0], [1.0]]),
        np.array([2, 0, 1], dtype=np.uint8),
        torch.eye(3)[[2, 0, 1]],
        torch.eye(3, dtype=torch.bfloat16)[[2, 0, 1]],
        list(torch.eye(3, dtype=torch.int64)[[2, 0, 1]]),
        np.eye(3, dtype=bool)[[2, 0, 1]],
        [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
    ],
)
@pytest.mark.parametrize("attribute", [True, False])
def test_labels_of_any_form_are_the_same_classes(labels: Any, attribute: bool):
    samples = [(TENSOR, label) for label in labels]
    dataset = Listed([(TENSOR, "unused")] * 3, targets=labels) if attribute else Listed(samples)
    source = UserSource(dataset, None, "mine")
    assert (source.labels.tolist(), source.labels.dtype) == ([2, 0, 1], torch.int64)


def test_of_truth_values_true_is_class_one():
    assert class_numbers([True, False], "mine").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1], "label 1 of mine must be a whole number from 0, not -1"),
        ([0, 0.5], "label 1 of mine must be a whole number from 0, not 0.5"),
        ([float("nan"), 0], "label 0 of mine must be a whole number from 0, not nan"),
        ([0, "cat"], "label 1 of mine must be a whole number from 0, not 'cat'"),
        ([0, None], "label 1 of mine must be a whole number from 0, not None"),
        ([[0, 1], [0.3, 0.7]], r"label 1 of mine must be one class, or one-hot: .*, not \[0.3, 0.7\]"),
        ([[0, 1], [1, 1]], r"label 1 of mine must be one class, or one-hot: .*, not \[1, 1\]"),
        ([[0, 0], [1, 0]], r"label 0 of mine must be one class, or one-hot"),
        ([0, [0, 1]], "labels of mine have several shapes"),
        ([{"a": 1}], "label 0 of mine must be a whole number from 0, not {'a': 1}"),
    ],
)
def test_what_is_no_class_is_named(labels: list[Any], message: str):
    with pytest.raises(DataError, match=message):
        UserSource(Listed([(TENSOR, label) for label in labels]), None, "mine")


# --- data sets


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(TENSOR.repeat(3, 1, 1, 1), torch.tensor([2, 0, 1])),
        Subset(TensorDataset(TENSOR.repeat(4, 1, 1, 1), torch.tensor([9, 2, 0, 1])), [1, 2, 3]),
        [(PIXELS, 2), [PIXELS, 0], (PIXELS, 1, "more")],
        Listed([{"image": Image.fromarray(PIXELS), "label": label, "file": "a"} for label in (2, 0, 1)]),
        Listed([{"pixel_values": TENSOR / 255, "labels": torch.tensor(label)} for label in (2, 0, 1)]),
        Listed([{"img": PIXELS, "label": label} for label in (2, 0, 1)]),
        Listed([(TENSOR, "unused")] * 3, labels=[2, 0, 1]),
    ],
)
def test_data_sets_of_every_form_are_read(dataset: Any):
    source = UserSource(dataset, None, "mine")
    assert source.labels.tolist() == [2, 0, 1]
    assert torch.equal(source.images([1, 2]), torch.stack([TENSOR, TENSOR]))
    assert source.images([]).shape == (0, 3, 5, 6)


@pytest.mark.parametrize("checked", [100, 2])
@pytest.mark.parametrize(
    "targets", [[0, 0, 0, 0], [9, 9, 9, 9], ["a", "b", "c", "d"], [0, 1], None, 3, torch.zeros(4, 5)]
)
def test_the_labels_are_those_of_the_samples_whatever_an_attribute_says(
    targets: Any, checked: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(user_source, "CHECKED", checked)
    source = UserSource(Listed([(TENSOR, label) for label in (2, 0, 1, 0)], targets=targets), None, "mine")
    assert source.labels.tolist() == [2, 0, 1, 0]


def test_of_a_table_the_column_of_labels_is_read_at_once():
    class Table(Listed):
        def __getitem__(self, key: Any) -> Any:
            return [2, 0, 1] if key == "label" else self.samples[key]  # the samples' own labels are none

    samples = [{"image": Image.fromarray(PIXELS), "label": "unused"}] * 3
    assert UserSource(Table(samples, column_names=["image", "label"]), None, "mine").labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (None, "mine .NoneType. has no length; it must be a map-style data set"),
        ((x for x in []), "mine .generator. has no length"),
        (Stream(), "mine .Stream. has no length"),
        (DataLoader(TensorDataset(TENSOR[None])), "mine is a DataLoader; give the data set that it reads"),
        ({"image": 1}, "mine is a dict; it must be a map-style data set"),
        ({1, 2}, "mine is a set; it must be a map-style data set"),
        ("folder", "mine is a str"),
        ([], "mine holds no sample"),
        (TENSOR[None], r"sample 0 of mine must be \(image, label\) or a dict, not Tensor"),
        (TensorDataset(TENSOR[None]), r"sample 0 of mine must be \(image, label\) or a dict, not tuple"),
        (Listed([{"pixels": TENSOR, "y": 0}]), "sample 0 of mine has the keys pixels, y, and needs one of"),
        (Listed([(TENSOR, 0), OSError("disk 3\nis gone")]), "sample 1 of mine cannot be read: OSError: disk 3 is gone"),
        (Listed([(TENSOR, 0), (TENSOR[:, 1:], 0)]), r"image 1 of mine is \[3, 4, 6\], the first one \[3, 5, 6\]"),
        (Listed([(PIXELS, 0), (GREY, 0)]), r"image 1 of mine is \[1, 5, 6\], the first one \[3, 5, 6\]"),
    ],
)
def test_what_is_no_data_set_is_named_before_anything_is_done(dataset: Any, message: str):
    with pytest.raises(DataError, match=message) as caught:
        UserSource(dataset, None, "mine")
    assert "\n" not in str(caught.value)


def test_the_line_of_the_users_own_error_is_named():
    with pytest.raises(DataError, match=r"KeyError: 'a' \(.*test_user_source\.py, line \d+\)") as caught:
        UserSource(Listed([KeyError("a")]), None, "mine")
    assert isinstance(caught.value.__cause__, KeyError)


def test_images_of_several_sizes_are_brought_to_one():
    halves = np.zeros((8, 16, 3), dtype=np.uint8)
    halves[:, 4:12] = (7, 80, 200)  # the square in the middle
    source = UserSource(Listed([(halves, 0), (TENSOR, 1), (Image.fromarray(halves[::2, ::2]), 0)]), 4, "mine")
    assert source.images([0, 2]).shape == (2, 3, 4, 4)
    assert source.images([0])[0, :, 1:3, 1:3].flatten(1).unique(dim=1).squeeze(1).tolist() == [7, 80, 200]


def test_of_a_large_data_set_with_labels_samples_that_are_spread_evenly_are_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(user_source, "CHECKED", 10)
    read: list[int] = []

    class Large:
        targets = torch.zeros(95, dtype=torch.int64)

        def __len__(self) -> int:
            return 95

        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return TENSOR, SimpleNamespace()

    UserSource(Large(), None, "mine")
    assert read == [0, *range(0, 95, 10)]
