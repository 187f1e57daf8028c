"""Lists of found samples, read from files that someone wrote by hand or exported."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np

from ..errors import DataError

Entry = tuple[int, str]  # (line in the file, or position in the list; what stands there)


def read_indices(path: str | os.PathLike[str], n: int) -> list[int]:
    """Indices of samples, in the file's order.

    Args:
        path: of the file, whose suffix decides the format: .txt, one integer a line, `#` starts a comment; .csv, a
            column `index` or a single column; .json, a list of integers; .npy, a one-dimensional integer array.
        n: number of samples of the data set that is indexed.

    Returns:
        Different indices from 0 to n-1, one at least.

    Raises:
        DataError: naming file, line and what to do: missing, unreadable or empty file, unknown suffix, an entry that is
            not an integer, out of range 0..n-1 or given twice.
    """
    path = Path(path)
    readers = {".txt": _read_text, ".csv": _read_csv, ".json": _read_json, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: the suffix {path.suffix!r} is not known; use one of {', '.join(readers)}")
    try:
        entries = readers[path.suffix.lower()](path)
    except DataError:
        raise
    except Exception as error:  # of broken UTF-8, CSV and JSON, and whatever a broken .npy, or a .zip, leads NumPy to
        raise DataError(f"{path} cannot be read ({error}); write it again") from error

    place = "line" if path.suffix.lower() in (".txt", ".csv") else "entry"
    seen: dict[int, int] = {}
    for position, text in entries:
        where = f"{path}, {place} {position}"
        if not re.fullmatch("[+-]?[0-9]{1,18}", text):  # int() also takes 1_000 and digits of other scripts
            raise DataError(f"{where}: {text!r} is not an integer; give the index of one sample")
        index = int(text)
        if not 0 <= index < n:
            raise DataError(f"{where}: index {index} is out of range; the data set has {n} samples, numbered from 0")
        if index in seen:
            raise DataError(f"{where}: index {index} was already given in {place} {seen[index]}; remove one of the two")
        seen[index] = position
    if not seen:
        raise DataError(f"{path} holds no index; give at least one poisoned sample")
    return list(seen)


def _read_text(path: Path) -> list[Entry]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return [(number, line) for number, line in enumerate(lines, start=1) if line]


def _read_csv(path: Path) -> list[Entry]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        return []
    header = rows[0][1]
    if "index" in header:
        column, rows = header.index("index"), rows[1:]
    elif len(header) == 1:
        column = 0
    else:
        raise DataError(f"{path}: the first line names no column 'index', and there are {len(header)} columns; name it")
    for number, row in rows:
        if len(row) <= column:
            raise DataError(f"{path}, line {number}: the column 'index' is missing; fill it or remove the line")
    return [(number, row[column]) for number, row in rows]


def _read_json(path: Path) -> list[Entry]:
    values = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(values, list):
        raise DataError(f"{path} holds a JSON {type(values).__name__}; write a list of integers")
    # json.dumps: true, 1.0 and "1" stay what they are, and int() refuses them
    return [(position, json.dumps(value)) for position, value in enumerate(values, start=1)]


def _read_npy(path: Path) -> list[Entry]:
    with path.open("rb") as file:
        values = np.load(file, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{path} must hold a one-dimensional array of integers; save indices.astype('int64')")
    return [(position, str(value)) for position, value in enumerate(values.tolist(), start=1)]
