"""Training data as people have them: image folders, tables, arrays, data sets of Hugging Face, "module:factory"."""

from __future__ import annotations

import csv
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import DataError
from .image_files import SUFFIXES, list_images
from .samples import IMAGE_KEYS, LABEL_KEYS, class_numbers, pixels_of
from .user_code import called, find_user_code

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
TEXT_COLUMNS = ("text", "sentence", "review", "content", "document")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "y")
ARRAYS = ("images", "x", "x_train", "data", "train_images", "inputs")
ARRAY_LABELS = ("labels", "y", "y_train", "targets", "train_labels", "label")
FORMS = "a folder of class folders, a CSV of path (or text) and label, .npz, images.npy,labels.npy, or module:factory"


@dataclass
class TrainingFiles:
    """Samples with their labels; of images nothing has been decoded yet.

    Attributes:
        name: as the user gave it, for errors.
        labels: int64 [N].
        classes: names in the order of the labels; None where there are none.
        paths: of image files [N]; None where the samples are none.
        root: folder that the paths are given from; None where there are no paths.
        texts: [N]; None where the samples are none.
        images: data set of (image, label, ...), of images that are not normalised yet; None where the samples are none.
        inputs: data set, or DataLoader, of what the model takes, as it is; None where the samples are none.
        notes: what deserves a second look.
    """

    name: str
    labels: Tensor
    classes: tuple[str, ...] | None = None
    paths: list[Path] | None = None
    root: Path | None = None
    texts: list[str] | None = None
    images: Any = None
    inputs: Any = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def file_names(self) -> list[str] | None:
        """Of the samples, from the folder of the data; None where they are no files."""
        if self.paths is None:
            return None
        root = self.root
        return [str(p.relative_to(root) if root is not None and p.is_relative_to(root) else p) for p in self.paths]


def read_training_files(name: str, classes: Sequence[str] | None = None, split: str = "train") -> TrainingFiles:
    """Read training data by their name.

    Args:
        name: a folder with a folder of images per class, or with train/ in it, see `list_images`; a data set of Hugging
            Face's `save_to_disk`; *.csv with columns for a path or a text and for the label; *.npz, or two .npy with a
            comma between them; or "module:factory", code that is imported and run.
        classes: names in the order of the model's outputs, where it is not the alphabet's.
        split: of a data set of several.

    Raises:
        DataError: they cannot be read, or hold no samples with labels.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
        made = _read_saved(path, split) if saved else _read_folder(path, classes)
    elif ":" in name and not path.exists():
        made = _of_factory(name)
    elif path.suffix.lower() == ".csv":
        made = _read_table(path, classes)
    elif path.suffix.lower() in (".npz", ".npy"):
        made = _read_arrays(name)
    else:
        what = f"{path} is a file that is not read" if path.exists() else f"there is no {path}"
        raise DataError(f"{what}; the data are {FORMS}")
    if classes is not None and made.classes is None:
        made.classes = tuple(classes)
    if not len(made):
        raise DataError(f"{name} holds no sample")
    if made.classes is not None and (over := made.labels >= len(made.classes)).any():
        index = int(over.nonzero()[0])
        raise DataError(
            f"{name} names {len(made.classes)} classes, and sample {index} has the label {int(made.labels[index])}"
        )
    return made


def _read_folder(path: Path, classes: Sequence[str] | None) -> TrainingFiles:
    root, notes = path, []
    folders = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if "train" in folders and (folders == {"train"} or folders & {"test", "val", "valid", "validation"}):
        root = path / "train"
        notes = [f"{path} holds train{' and more' * (len(folders) > 1)}; the training data are those in {root}"]
    found, names, labels = list_images(root)
    if len(found) == 1:
        raise DataError(f"{root} holds images of one class alone, {found[0]!r}; a folder for each of several is needed")
    if classes is not None:
        labels = _reordered(labels, found, classes, str(root))
    return TrainingFiles(
        str(path),
        labels,
        tuple(classes or found),
        paths=[root / name for name in names],
        root=root,
        notes=tuple(notes),
    )


def _reordered(labels: Tensor, found: Sequence[str], classes: Sequence[str], name: str) -> Tensor:
    """The labels of found classes by their places in another order."""
    if missing := [name for name in found if name not in classes]:
        raise DataError(f"{name} has the class {missing[0]!r}, which is none of the classes {', '.join(classes)}")
    places = torch.tensor([list(classes).index(name) for name in found])
    return places[labels]


def _read_table(path: Path, classes: Sequence[str] | None) -> TrainingFiles:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=";" if first.count(";") > first.count(",") else ",")
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{path} is empty")
    header = [cell.lower() for cell in rows[0][1]]
    label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    paths = next((header.index(name) for name in PATH_COLUMNS if name in header), None)
    texts = next((header.index(name) for name in TEXT_COLUMNS if name in header), None)
    if label is not None and (paths is not None or texts is not None):
        rows = rows[1:]
    elif len(header) == 2 and header[0].endswith(SUFFIXES):
        paths, label = 0, 1
    else:
        raise DataError(
            f"{path} needs a column path (or text) and a column label; its first line is {', '.join(rows[0][1])}"
        )
    column = paths if paths is not None else texts
    assert column is not None
    for line, row in rows:
        if len(row) <= max(column, label) or not row[label] or not row[column]:
            raise DataError(f"{path}, line {line} lacks its {header[column] if paths is None else 'path'} or its label")
    labels, names = _labels_of([row[label] for _, row in rows], classes, str(path))
    if paths is None:
        return TrainingFiles(str(path), labels, names, texts=[row[column] for _, row in rows])
    files = [path.parent / os.path.expanduser(row[column]) for _, row in rows]
    for (line, _), image in zip(rows, files, strict=True):
        if not image.is_file():
            raise DataError(f"{path}, line {line}: there is no file {image}; paths count from the folder of the CSV")
    return TrainingFiles(str(path), labels, names, paths=files, root=path.parent)


def _labels_of(cells: list[str], classes: Sequence[str] | None, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Class numbers of a column, and the names where it has names."""
    if classes is None and all(cell.isdigit() for cell in cells):
        return torch.tensor([int(cell) for cell in cells]), None
    found = sorted(set(cells))
    places = torch.tensor([found.index(cell) for cell in cells])
    return (places, tuple(found)) if classes is None else (_reordered(places, found, classes, name), tuple(classes))


def _read_arrays(name: str) -> TrainingFiles:
    files = [Path(part.strip()).expanduser() for part in name.split(",")]
    try:
        loaded = [np.load(file, allow_pickle=False) for file in files]
        entries = {key: loaded[0][key] for key in loaded[0].files} if hasattr(loaded[0], "files") else None
    except Exception as error:  # of missing, broken and pickled files
        raise DataError(f"{name} cannot be read as arrays: {error}") from error
    if entries is not None:
        x = next((entries[key] for key in ARRAYS if key in entries), None)
        y = next((entries[key] for key in ARRAY_LABELS if key in entries), None)
        if x is None or y is None:
            raise DataError(f"{name} holds {', '.join(entries) or 'nothing'}; name the arrays images and labels")
    elif len(loaded) == 2:
        x, y = loaded
    else:
        raise DataError(f"{name} has no labels; give two files, as images.npy,labels.npy, or an .npz of both")
    labels = class_numbers(y, name)
    if len(x) != len(labels):
        raise DataError(f"{name} holds {len(x)} samples and {len(labels)} labels")
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        return TrainingFiles(name, labels, images=_Pairs(x, labels))
    inputs = torch.from_numpy(x.astype(np.float32) if x.dtype.kind in "fu" else x)
    return TrainingFiles(name, labels, inputs=torch.utils.data.TensorDataset(inputs, labels))


class _Pairs:
    """Images and labels of two arrays."""

    def __init__(self, images: np.ndarray, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])


def _read_saved(path: Path, split: str) -> TrainingFiles:
    try:
        import datasets  # optional, of Hugging Face
    except ImportError as error:
        raise DataError(
            f"{path} was saved by the package datasets, which is not installed; install it with: pip install datasets"
        ) from error
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        if split not in splits:
            raise DataError(f"{path} has the splits {', '.join(splits)}, not {split!r}; give --split")
        path = path / split
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # of broken files
        raise DataError(f"{path} cannot be read as a data set: {error}") from error
    return _of_dataset(loaded, str(path))


def _of_factory(name: str) -> TrainingFiles:
    factory = find_user_code(name, DataError)
    needed = [
        parameter
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in (0, 1, 3)  # positional or by name
    ]
    if needed:
        raise DataError(f"{name!r} takes the argument {needed[0].name!r}, and is called without any; give it a default")
    made = called(name, factory, DataError)
    if isinstance(made, Mapping) and "train" in made:
        made = made["train"]
    elif isinstance(made, tuple) and made and hasattr(made[0], "__getitem__") and hasattr(made[0], "__len__"):
        made = made[0]  # (train, test)
    return _of_dataset(made, name)


def _of_dataset(dataset: Any, name: str) -> TrainingFiles:
    """A data set in memory: of images, of texts, or of the model's inputs."""
    if isinstance(dataset, DataLoader):
        return TrainingFiles(name, _all_labels(dataset.dataset, name), inputs=dataset)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, (Mapping, str)):
        raise DataError(
            f"{name} gives a {type(dataset).__name__}; it must be a map-style data set: len() and [index], or "
            "(train, test)"
        )
    if not len(dataset):
        raise DataError(f"{name} holds no sample")
    value, _ = sample_of(dataset, 0, name)
    classes = _names_of(dataset)
    if isinstance(value, str):
        pairs = [sample_of(dataset, index, name) for index in range(len(dataset))]
        labels = class_numbers([label for _, label in pairs], name)
        return TrainingFiles(name, labels, classes, texts=[text for text, _ in pairs])
    if isinstance(value, (Tensor, np.ndarray, Mapping, list, tuple)) and not _is_picture(value):
        return TrainingFiles(name, _all_labels(dataset, name), classes, inputs=dataset)
    return TrainingFiles(name, _all_labels(dataset, name), classes, images=dataset)


def _is_picture(value: Any) -> bool:
    if not isinstance(value, (Tensor, np.ndarray)) or value.dtype not in (torch.uint8, np.uint8):
        return False
    try:
        pixels_of(value)
    except ValueError:
        return False
    return True


def sample_of(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    """The input, or the mapping of inputs, and the label of a sample. Raises DataError where there are none."""
    try:
        sample = dataset[index]
    except Exception as error:  # of the user's own code
        raise DataError(f"sample {index} of {name} cannot be read: {type(error).__name__}: {error}") from error
    if isinstance(sample, Mapping):
        label = next((sample[key] for key in (*LABEL_KEYS, "label_ids") if key in sample), None)
        if label is None:
            raise DataError(f"sample {index} of {name} has the keys {', '.join(map(str, sample))}, and no label")
        keys = [key for key in (*IMAGE_KEYS, *TEXT_COLUMNS) if key in sample]
        return (sample[keys[0]] if keys and "input_ids" not in sample else sample), label
    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        raise DataError(f"sample {index} of {name} must be (input, label) or a dict, not {type(sample).__name__}")
    return sample[0], sample[1]


def _all_labels(dataset: Any, name: str) -> Tensor:
    return class_numbers([sample_of(dataset, index, name)[1] for index in range(len(dataset))], name)


def _names_of(dataset: Any) -> tuple[str, ...] | None:
    """Names of the classes that a data set knows, as torchvision's and Hugging Face's do."""
    features = getattr(dataset, "features", None)
    named = getattr(dataset, "classes", None)
    if named is None and isinstance(features, Mapping):
        named = next((features[key].names for key in LABEL_KEYS if hasattr(features.get(key), "names")), None)
    return None if named is None else tuple(map(str, named))
