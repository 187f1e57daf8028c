"""Data sets of the user's own, by module:factory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from potion_fast.bench.configs import EvaluateConfig, TrainConfig
from potion_fast.bench.data import load_dataset, make_loader
from potion_fast.bench.runs.inputs import load_trained
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.errors import DataError
from potion_fast.user.run_folder import RunFolder

CODE = """
import numpy as np, torch
from PIL import Image
from types import SimpleNamespace
from torch.utils.data import DataLoader, TensorDataset
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
            "normalised": lambda: torch.from_numpy(pixels).permute(2, 0, 1) / 255 * 4 - 2,
            "grey": lambda: torch.from_numpy(pixels[None, :, :, 0]),
            "odd": lambda: Image.fromarray(pixels[: self.size - (index == 2)]),
        }[self.kind]()
        return image, index % 3

class Table(Pictures):
    column_names = ["image", "label"]
    features = {"label": SimpleNamespace(names=["r", "g", "b"])}
    classes = None
    def __getitem__(self, key):
        if key == "label":
            return [index % 3 for index in range(self.n)]
        return {"image": super().__getitem__(key)[0]} | {"label": key % 3}

class WithTargets(Pictures):
    def __init__(self, n, targets):
        super().__init__(n)
        self.targets = targets
    def __getitem__(self, index):
        return super().__getitem__(index)[0], self.targets[index]

def pair(): return Pictures(9), Pictures(6)
def rooted(root): return Pictures(int((root / "count").read_text())), Pictures(6)
def tensors(): return Pictures(9, "tensor"), Pictures(6, "tensor")
def targets(): return WithTargets(9, torch.arange(9) % 3), WithTargets(6, [0, 1, 2, 0, 1, 2])
def grey(): return Pictures(9, "grey"), Pictures(6, "grey")
def floats(): return Pictures(9, "float"), Pictures(6, "float")
def arrays(): return Pictures(9, "array"), Pictures(6, "array")
def normalised(): return Pictures(9, "normalised"), Pictures(6, "normalised")
def four(): return [TensorDataset(torch.full((n, 4, 8, 8), 51, dtype=torch.uint8), torch.arange(n) % 3) for n in (9, 6)]
def as_dict(): return {"train": Pictures(9), "validation": Pictures(6)}
def other_dict(): return {"data": 1}
def table(): return Table(9), Table(6)
def three(): return Pictures(9), Pictures(6), Pictures(6)
def nothing(): pass
def loaders(): return [DataLoader(Pictures(n), batch_size=3, collate_fn=list) for n in (9, 6)]
def one_based(): return WithTargets(9, [1, 2, 3] * 3), WithTargets(6, [1, 2, 3] * 2)
def unnamed_one_based(): return [TensorDataset(torch.zeros(6, 3, 8, 8), torch.tensor([1, 2] * 3)) for _ in range(2)]
def unnamed_ids(): return [TensorDataset(torch.zeros(2, 3, 8, 8), torch.tensor([0, 10**12])) for _ in range(2)]
def leaving(): raise SystemExit(2)
def optional(n=9): return Pictures(n), Pictures(6)
def odd(): return Pictures(9, "odd"), Pictures(6)
def other_size(): return Pictures(9), Pictures(6, size=13)
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


@pytest.mark.parametrize("factory", ["pair", "tensors", "targets", "floats", "arrays", "as_dict"])
def test_a_pair_of_data_sets_is_read_with_its_class_names(factory: str):
    splits = load_dataset(f"own_pictures:{factory}")
    assert (splits.classes, splits.size, splits.channels) == (("red", "green", "blue"), (12, 14), 3)
    assert splits.train.labels.tolist() == [0, 1, 2] * 3
    assert splits.train.images([4, 2])[:, :, 0, 0].tolist() == [[4, 200, 4], [2, 2, 200]]
    batches = list(make_loader(splits.dataset("test"), batch_size=4, shuffle=False, seed=0, workers=1))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 1, 2]


def test_the_factory_gets_the_folder_where_it_takes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "count").write_text("5")
    assert len(load_dataset("own_pictures:rooted", tmp_path).train) == 5
    with pytest.raises(
        DataError, match="'own_pictures:rooted' takes an argument, the folder.*--root or set POTION_FAST"
    ):
        load_dataset("own_pictures:rooted")
    monkeypatch.setenv("POTION_FAST_DATA", str(tmp_path))
    assert len(load_dataset("own_pictures:rooted").train) == 5
    assert len(load_dataset("own_pictures:pair").train) == 9  # takes none, and gets none
    assert len(load_dataset("own_pictures:optional").train) == 9  # its argument is something else
    with pytest.raises(DataError, match="takes no argument, and a folder was given; leave --root out"):
        load_dataset("own_pictures:pair", tmp_path)


def test_a_factory_may_import_its_neighbours_when_it_is_called(tmp_path: Path):
    (tmp_path / "own_late.py").write_text("def make():\n    import own_pictures\n    return own_pictures.pair()\n")
    path = list(sys.path)
    assert len(load_dataset("own_late:make").train) == 9
    assert sys.path == path
    sys.modules.pop("own_late")


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


@pytest.mark.parametrize(("factory", "channels"), [("grey", 1), ("four", 4)])
def test_images_of_other_than_three_channels_have_a_normalisation_that_can_be_chosen(factory: str, channels: int):
    splits = load_dataset(f"own_pictures:{factory}")
    assert (splits.channels, splits.mean, splits.std) == (channels, (0.5,) * channels, (0.5,) * channels)
    mean, std = tuple(0.1 * k for k in range(channels)), tuple(0.2 + 0.1 * k for k in range(channels))
    splits = load_dataset(f"own_pictures:{factory}", mean=mean, std=std)
    images, _ = splits.dataset("train").batch([3])
    pixels = splits.train.images([3]).double() / 255
    expected = (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(images.double(), expected, atol=1e-6, rtol=0)
    for wrong in ({"mean": (0.5,) * (channels + 1)}, {"std": (0.5,) * (channels + 1)}, {"mean": ()}):
        with pytest.raises(DataError, match=rf"have {channels} channels, and need as many means \(--mean\).*\(--std\)"):
            load_dataset(f"own_pictures:{factory}", **wrong)


def test_the_classes_of_a_table_are_the_names_of_its_label():
    splits = load_dataset("own_pictures:table")
    assert (splits.classes, splits.train.labels.tolist()) == (("r", "g", "b"), [0, 1, 2] * 3)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("normalised", "image 0 of the training set.*go from -2 to 1.*not normalised yet"),
        ("other_dict", "made a dict of data; it needs train and test"),
        ("three", r"a pair \(train, test\) of data sets, not tuple of 3"),
        ("nothing", r"must make Splits or a pair \(train, test\) of data sets, not NoneType"),
        ("loaders", "the training set of .* is a DataLoader; give the data set that it reads"),
        ("one_based", "labels from 1 to 3, and there are 3 classes; take 1 off each"),
        ("unnamed_one_based", "labels of .* go from 1 to 2; they must count from 0: take 1 off each"),
        ("unnamed_ids", "labels of .* go up to 1000000000000; they must number the classes from 0"),
        ("leaving", r"'own_pictures:leaving' failed: SystemExit: 2 \(.*own_pictures.py, line"),
        ("other_size", r"the test set .* gives torch.uint8 \[1, 3, 13, 15\].*--image-size \(image_size=\) brings all"),
        ("negative_label", "label 1 of the training set .* not -1"),
        ("large_label", "labels from 0 to 3, and there are 3 classes"),
        ("text_label", "label 1 of the training set .* not 'one'"),
        ("empty", "the test set .* holds no sample"),
        ("generator", "has no length"),
        ("single", r"must make Splits or a pair \(train, test\).*not Pictures"),
        ("unlabelled", r"sample 0 .* must be \(image, label\) or a dict, not Tensor"),
        ("wrong_splits", r"uint8 \[1, 3, 5, 4\] was expected"),
        ("missing", "has no function 'missing'"),
        ("number", "has no function 'number'"),
    ],
)
def test_what_is_no_data_set_is_named(factory: str, message: str):
    with pytest.raises(DataError, match=message):
        load_dataset(f"own_pictures:{factory}")


def test_an_image_of_another_size_is_named_before_a_run():
    with pytest.raises(
        DataError, match=r"image 2 of the training set .* is \[3, 11, 14\], the first one \[3, 12, 14\].*--image-size"
    ):
        load_dataset("own_pictures:odd")


def test_the_user_s_own_error_is_in_the_text_with_its_line_and_is_the_cause(tmp_path: Path):
    with pytest.raises(
        DataError,
        match=r"pictures:broken' failed: ZeroDivisionError: in the user's own code \(.*own_pictures\.py, line \d+\)$",
    ) as caught:
        load_dataset("own_pictures:broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no_such_module:make", None, "there is no module 'no_such_module'"),
        (":make", None, "is no module:factory"),
        ("own/pictures.py:make", None, "is no module:factory"),
        (".own_pictures:make", None, "is no module:factory"),
        ("own_other:make", "import no_such_package", "cannot be imported: ModuleNotFoundError: .*own_other.py, line 1"),
        ("own_other:make", "x = 1\ny = 1 / 0", "cannot be imported: ZeroDivisionError: division by zero .*line 2"),
        ("own_other:make", "def make(:", "cannot be imported: SyntaxError: .*own_other.py, line 1"),
        ("own_other:make", "exit(3)", "cannot be imported: SystemExit: 3"),
        ("own_other:make", "", r"own_other.py\) has no function 'make'"),
    ],
)
def test_a_module_that_cannot_be_used_is_named(tmp_path: Path, name: str, text: str | None, message: str):
    if text is not None:
        (tmp_path / "own_other.py").write_text(text)
    sys.modules.pop("own_other", None)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
    sys.modules.pop("own_other", None)


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
