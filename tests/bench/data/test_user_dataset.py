"""Data sets of the user's own, by module:factory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from potion_fast.bench.configs import EvaluateConfig, TrainConfig
from potion_fast.bench.data import load_dataset, make_loader
from potion_fast.bench.runs.folder import RunFolder
from potion_fast.bench.runs.inputs import load_trained
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.errors import DataError

CODE = """
import numpy as np, torch
from PIL import Image
from potion_fast.bench.data import MemorySource, Splits

class Pictures:
    classes = ["red", "green", "blue"]
    def __init__(self, n, kind="pillow", size=12):
        self.n, self.kind, self.size = n, kind, size
    def __len__(self):
        return self.n
    def __getitem__(self, index):
        pixels = np.full((self.size, self.size + 2, 3), index, dtype=np.uint8)
        pixels[:, :, index % 3] = 200
        image = {
            "pillow": lambda: Image.fromarray(pixels),
            "tensor": lambda: torch.from_numpy(pixels).permute(2, 0, 1),
            "float": lambda: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
            "array": lambda: pixels,
            "grey": lambda: torch.from_numpy(pixels[None, :, :, 0]),
            "odd": lambda: Image.fromarray(pixels[: self.size - (index == 2)]),
        }[self.kind]()
        return image, index % 3

class WithTargets(Pictures):
    def __init__(self, n, targets):
        super().__init__(n)
        self.targets = targets

def pair(): return Pictures(9), Pictures(6)
def rooted(root): return Pictures(int((root / "count").read_text())), Pictures(6)
def tensors(): return Pictures(9, "tensor"), Pictures(6, "tensor")
def targets(): return WithTargets(9, torch.arange(9) % 3), WithTargets(6, [0, 1, 2, 0, 1, 2])
def grey(): return Pictures(9, "grey"), Pictures(6, "grey")
def floats(): return Pictures(9, "float"), Pictures(6, "float")
def arrays(): return Pictures(9, "array"), Pictures(6, "array")
def odd(): return Pictures(9, "odd"), Pictures(6)
def other_size(): return Pictures(9), Pictures(6, size=13)
def too_few_labels(): return WithTargets(9, [0]), Pictures(6)
def negative_label(): return WithTargets(2, [0, -1]), Pictures(6)
def large_label(): return WithTargets(2, [0, 3]), Pictures(6)
def text_label(): return WithTargets(2, [0, "one"]), Pictures(6)
def empty(): return Pictures(9), Pictures(0)
def generator(): return (x for x in []), Pictures(6)
def single(): return Pictures(9)
def unlabelled(): return [torch.zeros(3, 4, 4, dtype=torch.uint8)], Pictures(6)
def broken(): raise ZeroDivisionError("in the user's own code")

def memory(n):
    return MemorySource(torch.arange(n * 48).remainder(256).to(torch.uint8).view(n, 3, 4, 4), torch.arange(n) % 2)
def splits():
    return Splits("mine", memory(8), memory(4), ("a", "b"), (0.5,) * 3, (0.5,) * 3, 3, (4, 4), 1, False)
def wrong_splits():
    return Splits("mine", memory(8), memory(4), ("a", "b"), (0.5,) * 3, (0.5,) * 3, 3, (5, 4), 1, False)
number = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the current directory."""
    (tmp_path / "own_pictures.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POTION_FAST_DATA", raising=False)
    yield "own_pictures"
    sys.modules.pop("own_pictures", None)


@pytest.mark.parametrize("factory", ["pair", "tensors", "targets"])
def test_a_pair_of_data_sets_is_read_with_its_class_names(factory: str):
    splits = load_dataset(f"own_pictures:{factory}")
    assert (splits.classes, splits.size, splits.channels) == (("red", "green", "blue"), (12, 14), 3)
    assert splits.train.labels.tolist() == [0, 1, 2] * 3
    assert splits.train.images([4, 2])[:, :, 0, 0].tolist() == [[4, 200, 4], [2, 2, 200]]
    batches = list(make_loader(splits.dataset("test"), batch_size=4, shuffle=False, seed=0, workers=1))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 1, 2]


def test_the_factory_gets_the_folder_where_one_is_given(tmp_path: Path):
    (tmp_path / "count").write_text("5")
    assert len(load_dataset("own_pictures:rooted", tmp_path).train) == 5
    with pytest.raises(TypeError):  # the user's own error, as it is
        load_dataset("own_pictures:rooted")


def test_splits_are_used_as_they_are_and_train_size_keeps_a_part():
    splits = load_dataset("own_pictures:splits", train_size=3, seed=2)
    assert (splits.name, splits.pad, splits.flip, len(splits.train)) == ("mine", 1, False, 3)
    whole = load_dataset("own_pictures:splits").train
    keep = [
        index for index in range(8) for k in range(3) if torch.equal(whole.images([index]), splits.train.images([k]))
    ]
    assert keep == sorted(keep) and len(keep) == 3


def test_image_size_brings_all_images_to_one_size():
    splits = load_dataset("own_pictures:odd", image_size=6)
    assert splits.train.images(range(9)).shape == (9, 3, 6, 6)


def test_grey_images_need_their_own_statistics():
    with pytest.raises(DataError, match="1 channels; pass mean and std"):
        load_dataset("own_pictures:grey")
    splits = load_dataset("own_pictures:grey", mean=(0.5,), std=(0.25,))
    assert (splits.channels, splits.mean) == (1, (0.5,))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("floats", "image 0 of the training set.*not torch.float32.*normalised and poisoned here"),
        ("arrays", "image 0 of the training set.*not ndarray"),
        ("other_size", r"the test set .* gives torch.uint8 \[1, 3, 13, 15\]"),
        ("too_few_labels", "9 samples and 1 labels"),
        ("negative_label", "label 1 of the training set .* not -1"),
        ("large_label", "labels from 0 to 3, and there are 3 classes"),
        ("text_label", "label 1 of the training set .* not 'one'"),
        ("empty", "the test set .* holds no sample"),
        ("generator", "has no length"),
        ("single", r"must make Splits or a pair \(train, test\).*not Pictures"),
        ("unlabelled", r"sample 0 .* must be \(image, label\), not Tensor"),
        ("wrong_splits", r"uint8 \[1, 3, 5, 4\] was expected"),
        ("missing", "has no function 'missing'"),
        ("number", "has no function 'number'"),
    ],
)
def test_what_is_no_data_set_is_named(factory: str, message: str):
    with pytest.raises(DataError, match=message):
        load_dataset(f"own_pictures:{factory}")


def test_an_image_of_another_size_is_named_when_it_is_read():
    train = load_dataset("own_pictures:odd").train
    with pytest.raises(
        DataError, match=r"image 2 of the training set .* is \[3, 11, 14\], the first one \[3, 12, 14\]"
    ):
        train.images([0, 2])


def test_the_user_s_own_errors_pass_and_a_missing_module_is_named():
    with pytest.raises(ZeroDivisionError):
        load_dataset("own_pictures:broken")
    with pytest.raises(DataError, match="there is no module 'no_such_module'"):
        load_dataset("no_such_module:make")


def test_a_run_folder_alone_makes_no_code_run(tmp_path: Path):
    config = TrainConfig(data="own_pictures:pair", poisoned=2, found=1, patch_size=2, device="cpu")
    assert len(Scenario.load(config).splits.train) == 9
    sys.modules.pop("own_pictures")
    run = RunFolder.create(tmp_path / "run", False)
    run.write_config("train", config.to_dict())
    for name in (None, "own_pictures:tensors"):
        with pytest.raises(DataError, match=r"own_pictures:pair.*name it yourself \(--data\)"):
            load_trained(run, EvaluateConfig(run=str(run.path), data=name, device="cpu"))
    assert "own_pictures" not in sys.modules
