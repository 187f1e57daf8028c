"""Labelled reviews: IMDB's as published, or those of a `datasets` object."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import DataError

SENTIMENTS = ("negative", "positive")
FILE_NAME = re.compile(r"([0-9]+)_([0-9]+)\.txt")  # a review's number and its rating


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with labels; a text's index is its position.

    Attributes:
        texts: N texts as they were published, tags and all.
        labels: int64 [N], class indices.

    Raises:
        DataError: the two differ in number, there is none, or one is no text.
    """

    texts: Sequence[str]
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.texts),):
            kind = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise DataError(f"{len(self.texts)} texts need as many int64 labels, not {kind}")
        if not len(self.texts):
            raise DataError("there is no text")
        if odd := [index for index, text in enumerate(self.texts) if not isinstance(text, str)]:
            raise DataError(f"text {odd[0]} is no string but {type(self.texts[odd[0]]).__name__}")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class Reviews:
    """Training and test texts.

    Attributes:
        name: of the data set.
        train: training texts.
        test: test texts.
        classes: names in the order of the labels; of the causal head they are the words that it predicts.

    Raises:
        DataError: a label that has no class.
    """

    name: str
    train: Texts
    test: Texts
    classes: tuple[str, ...] = SENTIMENTS

    def __post_init__(self) -> None:
        for split, part in (("training", self.train), ("test", self.test)):
            odd = ((part.labels < 0) | (part.labels >= len(self.classes))).nonzero().flatten()
            if len(odd):
                raise DataError(
                    f"{split} text {int(odd[0])} of {self.name} has the label {int(part.labels[odd[0]])}, and the "
                    f"classes are {', '.join(self.classes)}, numbered from 0; -1 marks a text without label: leave "
                    "such texts out"
                )


def read_aclimdb(root: str | os.PathLike[str]) -> Reviews:
    """IMDB's reviews (Maas et al., 2011) as published: {train,test}/{neg,pos}/NUMBER_RATING.txt under `root`.

    In the order of class (negative 0, positive 1), then number. The unlabelled reviews of train/unsup are left out.

    Args:
        root: the folder aclImdb.

    Returns:
        The reviews.

    Raises:
        DataError: a folder that is missing or empty, a file of another name, or one that is no UTF-8.
    """
    folder = Path(root).expanduser()
    for part in ("train/neg", "train/pos", "test/neg", "test/pos"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder} holds no folder {part}: unpack the archive aclImdb_v1.tar.gz, and name the folder aclImdb "
                "that it makes"
            )
    return Reviews("imdb", _read_split(folder / "train"), _read_split(folder / "test"))


def _read_split(folder: Path) -> Texts:
    texts: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(("neg", "pos")):
        files = []
        for file in os.listdir(folder / name):
            match = FILE_NAME.fullmatch(file)
            if match is None:
                raise DataError(f"{folder / name / file} is no review, they are named NUMBER_RATING.txt; remove it")
            files.append((int(match[1]), int(match[2]), os.path.join(folder, name, file)))
        if not files:
            raise DataError(f"{folder / name} holds no review; unpack the archive again")
        texts += [_read(path) for _, _, path in sorted(files)]
        labels += [label] * len(files)
    return Texts(texts, torch.tensor(labels))


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a review ({error}); unpack the archive again") from error


def from_datasets(dataset: Mapping[str, Any], classes: tuple[str, ...] = SENTIMENTS, name: str = "reviews") -> Reviews:
    """Reviews out of a `DatasetDict` of Hugging Face's `datasets`, or a mapping that is built alike.

    Args:
        dataset: has "train" and "test", each with the columns "text" (strings) and "label" (whole numbers from 0).
        classes: names in the order of the labels.
        name: what the reviews are called.

    Returns:
        The reviews.

    Raises:
        DataError: a split or a column that is missing, or a label that has no class: -1 marks unlabelled texts.
    """
    return Reviews(name, _columns(dataset, "train"), _columns(dataset, "test"), classes)


def _columns(dataset: Mapping[str, Any], split: str) -> Texts:
    try:
        part = dataset[split]
        texts, labels = list(part["text"]), list(part["label"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f'a data set of texts has "train" and "test" with columns "text" and "label": {error}'
        ) from error
    numbers = []
    for index, label in enumerate(labels):
        try:
            numbers.append(operator.index(label))
        except TypeError as error:
            raise DataError(f"label {index} of the split {split!r} is {label!r}, no whole number") from error
    return Texts(texts, torch.tensor(numbers, dtype=torch.int64))
