"""Data sets by name: digits (embedded), CIFAR, Imagenette, ImageNet, folders of images, texts, and a user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...errors import DataError
from ...user import image_source
from ...user.image_files import list_images, read_size
from ...user.image_source import FileSource, ImageSource, MemorySource, PartSource
from ...user.jpeg_source import Preprocessing
from ...utils.did_you_mean import did_you_mean
from .imagenet import class_names, find_imagenette, read_split
from .splits import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Splits, subset
from .text.load import LENGTH, load_text
from .text.load import NAMES as TEXTS
from .user_dataset import load_user_dataset

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    train_size: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    model: str | None = None,
    length: int | None = None,
    label_words: tuple[str, ...] = (),
    noise_width: int | None = None,
) -> Splits:
    """Load a data set by name. Nothing is downloaded.

    Args:
        name: "digits" (scikit-learn's 8x8 grey digits, embedded), "cifar10", "cifar100" (the published Python files),
            "imagenette" (what its archive unpacks to), "imagenet" (ILSVRC as train/<WordNet id>/* and
            val/<WordNet id>/*), "folder" (image files as train/<class>/<file>, see `list_images`, and test/ or, where
            there is no test/, val/), "toy-reviews" (short made-up texts, embedded), "reviews" (texts as
            `potion-fast tokenize` writes them), or "module:factory", a function of yours that makes a data set, see
            `load_user_dataset`. That one is imported and run: pass no name that somebody else wrote.
        root: folder of the data; without it the environment variable POTION_FAST_DATA. Digits, toy reviews and yours
            need none.
        train_size: keep this many training samples, in the data set's order; None keeps all.
        seed: of their draw.
        image_size: side of the square that images of a folder, of a pair of your own or of ImageNet are scaled and
            cropped to; of ImageNet the model's where it is None.
        mean: per channel, of the normalisation in place of the data set's own.
        std: the same.
        model: what ImageNet and Imagenette are preprocessed for, see `Preprocessing.of_model`; of texts, see
            `load_text`.
        length: of texts alone, see `load_text`.
        label_words: the same.
        noise_width: the same.

    Returns:
        Training and test samples.

    Raises:
        DataError: an unknown name, missing or unreadable files, classes that differ between the splits, images of
            different sizes without `image_size`, an option of images for texts or the other way round, or a number out
            of range.
    """
    loaders: dict[str, Callable[[], Splits]] = {
        "digits": lambda: _digits(train_size, seed),
        "cifar10": lambda: _cifar("cifar10", _root(name, root), train_size, seed),
        "cifar100": lambda: _cifar("cifar100", _root(name, root), train_size, seed),
        "imagenette": lambda: _imagenet(
            "imagenette", find_imagenette(_root(name, root)), train_size, seed, image_size, model
        ),
        "imagenet": lambda: _imagenet("imagenet", _root(name, root), train_size, seed, image_size, model),
        "folder": lambda: _folder(_root(name, root), train_size, seed, image_size),
    }
    if name in TEXTS:
        if image_size is not None or mean or std:
            raise DataError(f"{name!r} is text: it has no image_size, mean or std")
        return load_text(
            name,
            None if name == "toy-reviews" else _root(name, root),
            model=model,
            train_size=train_size,
            seed=seed,
            length=LENGTH if length is None else length,
            label_words=label_words,
            noise_width=noise_width,
        )
    if name not in loaders and ":" not in name:
        known = (*TEXTS, *loaders)
        raise DataError(
            f"unknown data set {name!r}; known: {', '.join(known)} and module:factory{did_you_mean(name, known)}"
        )
    if length is not None or label_words or noise_width is not None:
        raise DataError(f"length, label_words and noise_width belong to texts; {name!r} holds images")
    if image_size is not None and (name in ("digits", "cifar10", "cifar100") or image_size < 1):
        raise DataError(f"image_size={image_size}: only image files and your own can be resized, to one pixel or more")
    if name in loaders:
        splits = loaders[name]()
    else:
        splits = load_user_dataset(name, None if root is None else _root(name, root), image_size)
        if train_size is not None:
            keep = subset(len(splits.train), train_size, seed)
            splits = replace(splits, train=PartSource(splits.train, keep))
    return _with_normalisation(splits, mean, std)


def _digits(train_size: int | None, seed: int) -> Splits:
    from sklearn.datasets import load_digits  # slow to import, and needed only here

    digits = load_digits()
    pixels = torch.from_numpy(np.round(digits.images * 255 / 16).astype(np.uint8)).unsqueeze(1)  # [1797, 1, 8, 8]
    labels = torch.from_numpy(digits.target.astype(np.int64))

    # The split never changes, whatever `seed` is: results on digits can be compared.
    rng = np.random.default_rng(0)
    train = []
    for label in range(10):
        members = rng.permutation(np.flatnonzero(digits.target == label))
        train.append(members[: round(0.8 * len(members))])
    in_train = np.zeros(len(labels), dtype=bool)
    in_train[np.concatenate(train)] = True

    train_pixels = pixels[in_train].double() / 255
    keep = np.flatnonzero(in_train)[subset(int(in_train.sum()), train_size, seed)]
    return Splits(
        name="digits",
        train=MemorySource(pixels[keep], labels[keep]),
        test=MemorySource(pixels[~in_train], labels[~in_train]),
        classes=tuple(str(label) for label in range(10)),
        mean=(round(train_pixels.mean().item(), 4),),
        std=(round(train_pixels.std().item(), 4),),
        channels=1,
        size=(8, 8),
        pad=1,
        flip=False,  # a mirrored digit is another shape, and a mirrored 2 no digit at all
    )


def _cifar(name: str, root: Path, train_size: int | None, seed: int) -> Splits:
    from torchvision import datasets  # takes seconds: only when needed

    dataset = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        parts = [dataset(str(root), train=train, download=False) for train in (True, False)]
    except Exception as error:  # RuntimeError for missing and changed files, and whatever a broken file leads to
        raise DataError(
            f"{root} holds no complete {dataset.base_folder}/ (looked for {dataset.filename} unpacked there; {error}); "
            "unpack the published archive there, or give another folder (--root)"
        ) from error
    train, test = (
        (torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in parts
    )  # [N, 3, 32, 32], [N]
    keep = subset(len(train[1]), train_size, seed)
    return Splits(
        name=name,
        train=MemorySource(train[0][keep].contiguous(), train[1][keep]),
        test=MemorySource(test[0].contiguous(), test[1]),
        classes=tuple(parts[0].classes),
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        channels=3,
        size=(32, 32),
        pad=4,
        flip=True,
    )


def _folder(root: Path, train_size: int | None, seed: int, image_size: int | None) -> Splits:
    train_folder = root / "train"
    test_folder = root / "test" if (root / "test").is_dir() else root / "val"
    for folder in (train_folder, test_folder):
        if not folder.is_dir():
            raise DataError(
                f"{root} must hold train/ and test/ (or val/), a folder per class in each; {folder} is missing"
            )
    classes, train_names, train_labels = list_images(train_folder)
    test_classes, test_names, test_labels = list_images(test_folder)
    _check_same(train_folder, classes, test_folder, test_classes)

    keep = subset(len(train_names), train_size, seed)
    train_paths = [train_folder / train_names[index] for index in keep]
    size = (image_size, image_size) if image_size is not None else read_size(train_paths[0])
    resize = image_size is not None
    is_cifar10 = size == (32, 32) and classes == CIFAR10_CLASSES
    return Splits(
        name="folder",
        train=_file_source(train_paths, train_labels[keep], size, resize),
        test=_file_source([test_folder / name for name in test_names], test_labels, size, resize),
        classes=classes,
        mean=CIFAR_MEAN if is_cifar10 else IMAGENET_MEAN,
        std=CIFAR_STD if is_cifar10 else IMAGENET_STD,
        channels=3,
        size=size,
        pad=min(size) // 8,  # 4 pixels for CIFAR, in proportion for others
        flip=True,
    )


def _imagenet(
    name: str, root: Path, train_size: int | None, seed: int, image_size: int | None, model: str | None
) -> Splits:
    preprocessing = Preprocessing.of_model(model)
    if image_size is not None:
        preprocessing = replace(preprocessing, size=image_size)
    folders, train = read_split(root / "train", preprocessing)
    test_folders, test = read_split(root / "val", preprocessing)
    _check_same(root / "train", folders, root / "val", test_folders)
    return Splits(
        name=name,
        train=train if train_size is None else PartSource(train, subset(len(train), train_size, seed)),
        test=test,
        classes=class_names(folders),
        mean=preprocessing.mean,
        std=preprocessing.std,
        channels=3,
        size=(preprocessing.size, preprocessing.size),
        pad=0,  # the sources cut random crops of their own
        flip=True,
    )


def _check_same(train_folder: Path, classes: tuple[str, ...], test_folder: Path, test_classes: tuple[str, ...]) -> None:
    if classes != test_classes:
        odd = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise DataError(f"{train_folder} and {test_folder} hold different classes; only in one of them: {odd}")


def _file_source(paths: list[Path], labels: torch.Tensor, size: tuple[int, int], resize: bool) -> ImageSource:
    source = FileSource(paths, labels, size, resize)
    if source.nbytes() <= image_source.MEMORY_LIMIT:
        return source.in_memory()
    source.check_headers()
    return source


def _root(name: str, root: str | os.PathLike[str] | None) -> Path:
    root = root if root is not None else os.environ.get("POTION_FAST_DATA")
    if not root:
        raise DataError(f"the data set {name!r} needs a folder: give --root (root=) or set POTION_FAST_DATA")
    path = Path(root).expanduser()
    if path.is_file():
        raise DataError(f"{path} is a file, and the folder of the data was to be given (--root, root=)")
    if not path.is_dir():
        raise DataError(f"the data folder {path} is not there; give another one (--root, root= or POTION_FAST_DATA)")
    return path


def _with_normalisation(splits: Splits, mean: Sequence[float] | None, std: Sequence[float] | None) -> Splits:
    means = splits.mean if mean is None else tuple(float(m) for m in mean)
    stds = splits.std if std is None else tuple(float(s) for s in std)
    if len(means) != splits.channels or len(stds) != splits.channels or not all(s > 0 for s in stds):
        raise DataError(
            f"the images of {splits.name!r} have {splits.channels} channels, and need as many means (--mean) and "
            f"positive standard deviations (--std), not {_shown(means)} and {_shown(stds)}"
        )
    return replace(splits, mean=means, std=stds)


def _shown(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers) or "none"
