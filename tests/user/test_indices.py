"""Lists of found samples: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from potion_fast.errors import DataError
from potion_fast.user.indices import read_indices


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("found.txt", "# found by hand\n7\n\n  2  # sure\n9"),
        ("found.csv", "path,index\na.png,7\nb.png,2\n\nc.png,9\n"),
        ("found.csv", "index\n7\n2\n9\n"),
        ("found.csv", "7\n2\n9\n"),
        ("found.json", "[7, 2, 9]"),
    ],
)
def test_indices_are_read_in_the_order_of_the_file(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    assert read_indices(tmp_path / name, 10) == [7, 2, 9]


def test_indices_are_read_from_npy(tmp_path: Path):
    np.save(tmp_path / "found.npy", np.array([7, 2, 9], dtype=np.uint8))
    assert read_indices(tmp_path / "found.npy", 10) == [7, 2, 9]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.txt", "# nothing\n", "holds no index"),
        ("f.txt", "1\n\nx\n", "line 3: 'x' is not an integer"),
        ("f.txt", "1\n1_0\n", "line 2: '1_0' is not an integer"),
        ("f.txt", "1\n10\n", r"line 2: index 10 is out of range; the data set has 10 samples"),
        ("f.txt", "-1\n", "line 1: index -1 is out of range"),
        ("f.txt", "4\n5\n4\n", "line 3: index 4 was already given in line 1"),
        ("f.csv", "", "holds no index"),
        ("f.csv", "index\n", "holds no index"),
        ("f.csv", "a,b\n1,2\n", "no column 'index'"),
        ("f.csv", "a,index\n1,2\n3\n", "line 3: the column 'index' is missing"),
        ("f.csv", "index\n1\n2.0\n", r"line 3: '2\.0' is not an integer"),
        ("f.json", "[1, 2", "cannot be read"),
        ("f.json", '{"index": [1]}', "holds a JSON dict"),
        ("f.json", "[1, true]", "entry 2: 'true' is not an integer"),
        ("f.json", "[1.0]", r"entry 1: '1\.0' is not an integer"),
        ("f.json", "[]", "holds no index"),
        ("f.npy", "no array", "cannot be read"),
        ("f.yaml", "- 1", "suffix '.yaml' is not known"),
    ],
)
def test_a_wrong_list_of_indices_says_what_and_where(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_indices(tmp_path / name, 10)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([[1]]), np.array(1), np.array([True])])
def test_npy_of_another_kind_is_refused(tmp_path: Path, values: np.ndarray):
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(DataError, match="one-dimensional array of integers"):
        read_indices(tmp_path / "f.npy", 10)


def test_truncated_and_pickled_npy_are_refused(tmp_path: Path):
    np.save(tmp_path / "f.npy", np.arange(9))
    (tmp_path / "f.npy").write_bytes((tmp_path / "f.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot be read"):
        read_indices(tmp_path / "f.npy", 10)
    np.save(tmp_path / "g.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        read_indices(tmp_path / "g.npy", 10)


def test_missing_list_of_indices_is_a_data_error(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        read_indices(tmp_path / "none.json", 10)


def test_huge_numbers_do_not_get_past_the_range_check(tmp_path: Path):
    (tmp_path / "f.json").write_text(json.dumps([10**30]))
    with pytest.raises(DataError):
        read_indices(tmp_path / "f.json", 10)
