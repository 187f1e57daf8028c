"""Encoded reviews, in memory or in a folder of memory-mapped files."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import FileError
from ....user.read_data import read_json
from ....utils.atomic_files import folder_written_whole
from ....utils.crc import crc32
from .ragged import ARRAYS, TokenSplit, encode_split
from .reviews import Reviews
from .vocabulary import FILE as TOKENIZER
from .vocabulary import import_tokenizers, plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DESCRIPTION = "tokens.json"
FORMAT = "potion_fast.tokens 1"
SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Encoded reviews with their tokenizer. The pad token is the last one of the vocabulary, and in no review.

    Attributes:
        name: of the data set.
        classes: names in the order of the labels.
        tokenizer: that encoded the reviews.
        train: training reviews.
        test: test reviews.
    """

    name: str
    classes: tuple[str, ...]
    tokenizer: Tokenizer
    train: TokenSplit
    test: TokenSplit

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        size: int = self.tokenizer.get_vocab_size()
        return size

    @classmethod
    def of(cls, reviews: Reviews, tokenizer: Tokenizer) -> Tokens:
        """Encode reviews, in memory.

        Args:
            reviews: texts and labels.
            tokenizer: truncation and padding are ignored.

        Returns:
            The tokens.

        Raises:
            DataError: a review without a token or with the pad token, or a tokenizer whose ids have gaps.
        """
        tokenizer = plain(tokenizer)
        parts = {
            split: encode_split(getattr(reviews, split), tokenizer, f"{reviews.name}, {split}") for split in SPLITS
        }
        return cls(reviews.name, reviews.classes, tokenizer, **parts)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Tokens:
        """Map what `write_tokens` wrote: nothing is copied to memory, and processes share it.

        Args:
            folder: the folder.

        Returns:
            The tokens.

        Raises:
            FileError: a folder that is missing or foreign, or a file in it that is missing or changed.
            DataError: the extra `text` is not installed.
        """
        path, tokenizers = Path(folder), import_tokenizers()
        about = _description(path)
        try:
            for file, expected in about["crc32"].items():
                if _crc(path / file) != expected:
                    raise ValueError(f"{file} is not what was written")
            parts = {split: TokenSplit(**_mapped(path, split)) for split in SPLITS}
            tokenizer = tokenizers.Tokenizer.from_file(str(path / TOKENIZER))
            return cls(about["name"], tuple(about["classes"]), tokenizer, **parts)
        except Exception as error:  # tokenizers raises Exception itself, numpy several kinds
            raise FileError(
                f"{path} cannot be read as tokens, a file may be truncated ({error}); write the folder again"
            ) from error


def write_tokens(reviews: Reviews, tokenizer: Tokenizer, out: str | os.PathLike[str]) -> Tokens:
    """Encode reviews once, into a new or empty folder that `Tokens.open` maps; written whole or not at all.

    It holds .npy files with tokens, labels and texts of each split, the tokenizer (tokenizer.json) and a description
    (tokens.json).

    Args:
        reviews: texts and labels.
        tokenizer: see `Tokens.of`.
        out: the folder.

    Returns:
        The tokens, mapped.

    Raises:
        FileError: the folder is taken or cannot be written.
        DataError: see `Tokens.of`.
    """
    target = check_free(out)
    tokens = Tokens.of(reviews, tokenizer)
    with folder_written_whole(target) as folder:
        for split in SPLITS:
            for name in ARRAYS:
                np.save(folder / f"{split}_{name}.npy", getattr(getattr(tokens, split), name), allow_pickle=False)
        (folder / TOKENIZER).write_text(tokens.tokenizer.to_str(pretty=True), encoding="utf-8")
        about = {"format": FORMAT, "name": tokens.name, "classes": tokens.classes, "vocabulary": tokens.vocabulary}
        about |= {split: getattr(tokens, split).sizes() for split in SPLITS}
        about["crc32"] = {file.name: _crc(file) for file in sorted(folder.iterdir())}
        (folder / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Tokens.open(target)


def check_free(out: str | os.PathLike[str]) -> Path:
    """The path of a folder to write.

    Args:
        out: the folder.

    Returns:
        Its path.

    Raises:
        FileError: it is taken, or its parent is missing.
    """
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileError(f"{path} is taken: name a new or an empty folder")
    if not path.absolute().parent.is_dir():
        raise FileError(f"cannot write {path}: the folder {path.parent} does not exist")
    return path


def _description(path: Path) -> dict[str, Any]:
    """What tokens.json says. Raises FileError where it is missing, broken or of something else."""
    try:
        about = read_json(path / DESCRIPTION)
    except FileError as error:
        raise FileError(
            f"{path} holds no tokens of reviews ({error}); make a folder of them with `potion-fast tokenize`"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FileError(f"{path / DESCRIPTION} is not of the form {FORMAT!r}; write the folder again")
    return about


def _mapped(path: Path, split: str) -> dict[str, np.ndarray]:
    return {name: np.load(path / f"{split}_{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}


def _crc(file: Path) -> int:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return crc32(content)
