"""Lists of found samples: indices or file names, from files that someone wrote by hand or exported."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..utils.warn import warn_caller

Entry = tuple[int, str]  # (line in the file, or position in the list; what stands there)
FileOf = Callable[[int], str | Path | None]

INTEGER = re.compile("[+-]?[0-9]{1,18}")  # int() also takes 1_000 and digits of other scripts
LIST = re.compile(r"\s*[0-9]+(\s*,\s*[0-9]+)*\s*,?\s*")
FILE_COLUMNS = ("file", "path", "filename", "file_name")  # of a .csv without a column `index`
REPEATED = 10  # repeated samples that a note shows


def read_indices(path: str | os.PathLike[str], n: int, file_of: FileOf | None = None) -> list[int]:
    """Indices of samples, in the given order, each once; a sample given twice is a warning.

    Args:
        path: of a file, whose suffix decides the format: .txt, a sample a line, or several with commas or spaces
            between them, `#` starts a comment; .csv, a column `index` or `file`, a single column, or a single line of
            indices; .json, a list; .npy, a one-dimensional integer array. Or, where there is no such file, the indices
            themselves, as "3,14,15".
        n: number of samples of the data set that is indexed.
        file_of: gives the file of a sample, or None where it has none of its own, as `ImageSource.path`: a sample may
            then be given by its file too, as train/cat/3.png, or 3.png where no other file is called so.

    Returns:
        Different indices from 0 to n-1, one at least.

    Raises:
        DataError: naming file, line and what to do: missing, unreadable or empty file, unknown suffix, an entry that is
            no index and no file of the data, out of range 0..n-1, or a file name that several samples have.
    """
    text, files = os.fspath(path), Files(n, file_of)
    if is_list(text):
        entries, source, place = list(enumerate(_split(text), start=1)), f"the list {text!r}", "entry"
    else:
        entries, source = _entries(Path(path), files), text
        place = "line" if Path(path).suffix.lower() in (".txt", ".csv") else "entry"
    seen: dict[int, int] = {}
    repeated: dict[int, int] = {}
    for position, given in entries:
        index = _index(given, f"{source}, {place} {position}", files)
        if index in seen:
            repeated.setdefault(index, position)
        seen.setdefault(index, position)
    if not seen:
        raise DataError(f"{source} holds no index; give at least one poisoned sample")
    if repeated:
        shown = [f"{index} ({place} {position})" for index, position in list(repeated.items())[:REPEATED]]
        more = f" and {len(repeated) - REPEATED} more" if len(repeated) > REPEATED else ""
        warn_caller(f"{source} gives some samples more than once; each counts once: {', '.join(shown)}{more}")
    return list(seen)


def is_list(text: str) -> bool:
    """Whether this is a list of indices itself and no file of that name."""
    return LIST.fullmatch(text) is not None and not os.path.exists(text)


class Files:
    """The files of n samples, which are found by the ends of their paths."""

    def __init__(self, n: int, file_of: FileOf | None) -> None:
        self.n, self.file_of = n, file_of

    @cached_property
    def by_name(self) -> dict[str, list[tuple[int, str]]]:
        """Samples and their paths, by the last part of the path."""
        found: dict[str, list[tuple[int, str]]] = {}
        file_of = self.file_of or (lambda index: None)
        for index in range(self.n):
            if (path := file_of(index)) is not None:
                found.setdefault(os.path.basename(path), []).append((index, str(path)))
        return found

    def named(self, given: str) -> list[tuple[int, str]]:
        """The samples whose path ends in this one, or this one in theirs."""
        parts = _parts(given)
        ends = [(index, path, min(len(parts), len(_parts(path)))) for index, path in self.by_name.get(parts[-1], ())]
        return [(index, path) for index, path, k in ends if _parts(path)[-k:] == parts[-k:]]


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, of Windows too; how often it goes up first says nothing."""
    return tuple(part for part in Path(path.replace("\\", "/")).parts if part != "..") or ("",)


def _entries(path: Path, files: Files) -> list[Entry]:
    readers: dict[str, Callable[[Path], list[Entry]]] = {
        ".txt": partial(_read_text, files),
        ".csv": _read_csv,
        ".json": _read_json,
        ".npy": _read_npy,
    }
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path}: the suffix {path.suffix!r} is not known; use one of {', '.join(readers)}, or give the indices "
            "themselves with commas between them"
        )
    try:
        return readers[path.suffix.lower()](path)
    except DataError:
        raise
    except Exception as error:  # of broken UTF-8, CSV and JSON, and whatever a broken .npy, or a .zip, leads NumPy to
        raise DataError(f"{path} cannot be read ({error}); write it again") from error


def _index(given: str, where: str, files: Files) -> int:
    """The sample that an entry means."""
    if INTEGER.fullmatch(given):
        index = int(given)
        if not 0 <= index < files.n:
            raise DataError(
                f"{where}: index {index} is out of range; the data set has {files.n} samples, numbered from 0"
            )
        return index
    if not files.by_name:
        raise DataError(
            f"{where}: {given!r} is not an integer; give the index of one sample (these data have no files)"
        )
    samples = files.named(given)
    if len(samples) > 1:
        both = " and ".join(path for _, path in samples[:2])
        raise DataError(f"{where}: {len(samples)} samples have a file {given!r}, {both}; give more of the path")
    if not samples:
        example = next(iter(files.by_name.values()))[0][1]
        raise DataError(f"{where}: {given!r} is no index and no file of the training data, such as {example}")
    return samples[0][0]


def _split(line: str) -> list[str]:
    """Entries with commas between them, indices with spaces too."""
    parts = [part.strip() for part in re.split("[,;]", line)]
    entries = [part for part in parts if part]
    spaced = [part.split() for part in entries]
    return [word for words in spaced for word in words] if _all_integers(sum(spaced, [])) else entries


def _all_integers(words: Sequence[str]) -> bool:
    return bool(words) and all(map(INTEGER.fullmatch, words))


def _read_text(files: Files, path: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        line, text = line.strip(), line.partition("#")[0].strip()
        if not text or _all_integers(_split(text)):
            found = _split(text)
        else:  # a file name may hold commas and #
            found = next(([whole] for whole in (line, text) if files.named(whole)), _split(text))
        entries += [(number, entry) for entry in found]
    return entries


def _read_csv(path: Path) -> list[Entry]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = ";" if ";" in file.readline() else ","  # some spreadsheets write semicolons
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        return []
    header = rows[0][1]
    if len(rows) == 1 and _all_integers([cell for cell in header if cell]):
        return [(rows[0][0], cell) for cell in header if cell]
    named = next((name for name in ("index", *FILE_COLUMNS) if name in header), None)
    if named is not None:
        column, rows = header.index(named), rows[1:]
    elif len(header) == 1:
        column, named = 0, "index"
    else:
        raise DataError(
            f"{path}: the first line names no column 'index' or 'file', and there are {len(header)} columns; name it"
        )
    for number, row in rows:
        if len(row) <= column:
            raise DataError(f"{path}, line {number}: the column {named!r} is missing; fill it or remove the line")
    return [(number, row[column]) for number, row in rows]


def _read_json(path: Path) -> list[Entry]:
    values: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(values, list):
        raise DataError(f"{path} holds a JSON {type(values).__name__}; write a list of integers")
    # json.dumps: true and 1.0 stay what they are, and are refused
    texts = [
        value if isinstance(value, str) and not INTEGER.fullmatch(value) else json.dumps(value) for value in values
    ]
    return list(enumerate(texts, start=1))


def _read_npy(path: Path) -> list[Entry]:
    with path.open("rb") as file:
        values = np.load(file, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{path} must hold a one-dimensional array of integers; save indices.astype('int64')")
    return [(position, str(value)) for position, value in enumerate(values.tolist(), start=1)]
