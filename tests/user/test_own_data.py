"""Training data of a user's own: each form gives the same samples, each way of naming found ones the same indices."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from potion_fast.errors import DataError, PotionWarning
from potion_fast.user.found import read_found
from potion_fast.user.model_inputs import plain_inputs
from potion_fast.user.own import _is_random
from potion_fast.user.own_data import prepared_data
from potion_fast.user.training_files import read_training_files

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
LABELS = [0, 0, 0, 1, 1, 1, 2, 2, 2]
NAMES = ("cat", "dog", "hen")


class Listed(Dataset[Any]):
    """A data set of what it is given."""

    def __init__(self, samples: list[Any], **attributes: Any) -> None:
        self.samples = samples
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        path = tmp_path / "images" / NAMES[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path


def write(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The samples in another form, and its name."""
    paths = [f"images/{NAMES[label]}/{index}.png" for index, label in enumerate(LABELS)]
    if form in ("table", "names", "semicolons"):
        rows = zip(paths, LABELS if form == "table" else [NAMES[k] for k in LABELS], strict=True)
        comma = ";" if form == "semicolons" else ","
        (folder / "t.csv").write_text("".join(f"{a}{comma}{b}\n" for a, b in [("File", "Label"), *rows]))
        return str(folder / "t.csv")
    if form == "bare":
        (folder / "t.csv").write_text("".join(f"{path},{label}\n" for path, label in zip(paths, LABELS, strict=True)))
        return str(folder / "t.csv")
    if form == "train":
        (folder / "all" / "test").mkdir(parents=True)
        (folder / "images").rename(folder / "all" / "train")
        return str(folder / "all")
    if form == "npz":
        np.savez(folder / "a.npz", x_train=PIXELS, y_train=LABELS)
        return str(folder / "a.npz")
    if form == "npy":
        np.save(folder / "x.npy", PIXELS.transpose(0, 3, 1, 2))
        np.save(folder / "y.npy", LABELS)
        return f"{folder / 'x.npy'},{folder / 'y.npy'}"
    if form == "saved":
        features = {"label": SimpleNamespace(names=list(NAMES))}
        rows = [{"image": Image.fromarray(x), "label": y} for x, y in zip(PIXELS, LABELS, strict=True)]
        loaded = {str(folder / "s" / "train"): Listed(rows, features=features)}
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_from_disk=loaded.__getitem__))
        (folder / "s").mkdir()
        (folder / "s" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        return str(folder / "s")
    monkeypatch.chdir(folder)
    (folder / f"own_{form}.py").write_text(
        "import numpy as np, torch\nfrom torch.utils.data import TensorDataset\n"
        "x = torch.from_numpy(np.load('x.npy'))\ny = torch.tensor(np.load('y.npy'))\n"
        "def pair(): return TensorDataset(x, y), None\n"
        "def splits(): return {'train': TensorDataset(x, y), 'test': None}\n"
    )
    write(folder, "npy", monkeypatch)
    return f"own_{form}:{form}"


@pytest.mark.parametrize(
    "form", ["images", "train", "table", "names", "semicolons", "bare", "npz", "npy", "saved", "pair", "splits"]
)
def test_every_form_gives_the_same_samples(form: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    name = str(folder / "images") if form == "images" else write(folder, form, monkeypatch)
    files = read_training_files(name)
    assert files.labels.tolist() == LABELS
    assert files.classes == (NAMES if form in ("images", "train", "names", "semicolons", "saved") else None)
    data = prepared_data(files, plain_inputs(3))
    read = [data.train[index] for index in range(9)]
    assert torch.equal(torch.stack([x for x, _ in read]), torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255)
    assert [label for _, label in read] == LABELS
    assert (files.file_names() or ["none"])[0].endswith("0.png" if files.paths else "none")
    sys.modules.pop(f"own_{form}", None)


def test_classes_are_counted_in_the_order_that_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (str(folder / "images"), write(folder, "names", monkeypatch)):
        files = read_training_files(name, ("hen", "cow", "dog", "cat"))
        assert files.labels.tolist() == [3, 3, 3, 2, 2, 2, 0, 0, 0]
        with pytest.raises(DataError, match="has the class 'cat', which is none of the classes dog, hen"):
            read_training_files(name, ("dog", "hen"))


def test_a_folder_with_train_alone_is_read_there_and_one_class_is_refused(folder: Path):
    (folder / "whole").mkdir()
    (folder / "images").rename(folder / "whole" / "train")
    files = read_training_files(str(folder / "whole"))
    assert files.labels.tolist() == LABELS and files.classes == NAMES
    assert files.notes == (f"{folder / 'whole'} holds train; the training data are those in {folder / 'whole/train'}",)
    (folder / "other").mkdir()
    (folder / "whole").rename(folder / "other" / "cow")
    with pytest.raises(DataError, match="other holds images of one class alone, 'cow'"):
        read_training_files(str(folder / "other"))


def test_floating_point_arrays_and_tables_of_numbers_are_inputs_as_they_are(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(9, 5))
    np.savez(tmp_path / "a.npz", x=values, y=LABELS)
    data = prepared_data(read_training_files(str(tmp_path / "a.npz")), None)
    assert torch.equal(data.train[4][0], torch.from_numpy(values[4]).float())


@pytest.mark.parametrize("augmentation", ["flip", "crop", "crop-and-flip"])
def test_augmentation_is_of_the_training_data_alone(augmentation: Any, folder: Path):
    data = prepared_data(read_training_files(str(folder / "images")), plain_inputs(3), augmentation)
    plain = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    assert torch.equal(data.plain[3][0], plain[3])
    torch.manual_seed(0)
    drawn = [data.train[3][0] for _ in range(40)]
    mirrored = sum(torch.equal(image, plain[3].flip(2)) for image in drawn)
    same = sum(torch.equal(image, plain[3]) for image in drawn)
    assert (same, mirrored) == {"flip": (same, 40 - same)}.get(augmentation, (same, mirrored))
    assert 0 < same < 40 and (mirrored > 0) == (augmentation != "crop")
    assert _is_random(data.train) or augmentation == "flip"
    assert not _is_random(data.plain)


def test_tokens_of_several_lengths_are_padded():
    words = {"[PAD]": 0, "a": 1, "b": 2}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="a")), pad_token="[PAD]")
    rows = [{"input_ids": [1] * n, "attention_mask": [1] * n, "label": 0, "idx": "x"} for n in (2, 4)]
    files = SimpleNamespace(inputs=Listed(rows), labels=torch.zeros(2), name="rows", texts=None)
    loader: DataLoader[Any] = prepared_data(files, None, tokenizer=tokenizer).train  # type: ignore[arg-type]
    batch: dict[str, Tensor] = next(iter(loader))
    assert batch["input_ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]] and set(batch) == {
        "input_ids", "attention_mask", "label"
    }  # fmt: skip


# --- found samples


@pytest.mark.parametrize("found", ["3,5,8", "3, dog/5.png,hen/8.png", "3.png,5.png,8.png", "list", "copies", "pixels"])
def test_found_samples_are_named_in_many_ways(found: str, folder: Path):
    files = read_training_files(str(folder / "images"))
    if found == "list":
        (folder / "found.txt").write_text("dog/3.png\n5\nimages/hen/8.png\n")
        found = str(folder / "found.txt")
    if found in ("copies", "pixels"):
        (folder / "found").mkdir()
        for index in (3, 5, 8):
            path = folder / "images" / NAMES[LABELS[index]] / f"{index}.png"
            if found == "copies":
                (folder / "found" / f"suspicious {index}.png").write_bytes(path.read_bytes())
            else:
                Image.open(path).save(folder / "found" / f"{index}.bmp")
        found = str(folder / "found")
    assert read_found(found, files) == [3, 5, 8]


def test_found_samples_given_twice_are_a_note(folder: Path):
    files = read_training_files(str(folder / "images"))
    with pytest.warns(PotionWarning, match="more than once"):
        assert read_found("3,5,3", files) == [3, 5]
