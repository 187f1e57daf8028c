"""Lists of found samples: what is read, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from potion_fast.errors import DataError, PotionWarning
from potion_fast.user.indices import read_indices


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("found.txt", "# found by hand\n7\n\n  2  # sure\n9"),
        ("found.csv", "path,index\na.png,7\nb.png,2\n\nc.png,9\n"),
        ("found.csv", "index\n7\n2\n9\n"),
        ("found.csv", "7\n2\n9\n"),
        ("found.json", "[7, 2, 9]"),
        ("found.txt", "7, 2, 9"),
        ("found.txt", "7,2;  # two of them\n9,"),
        ("found.txt", "7 2\n9"),
        ("found.csv", "7,2,9\n"),
        ("found.csv", "7;2;9\n"),
        ("found.csv", "score;index\n0,5;7\n0,4;2\n0,3;9\n"),
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
        ("f.csv", "", "holds no index"),
        ("f.csv", "index\n", "holds no index"),
        ("f.csv", "a,b\n1,2\n", "no column 'index'"),
        ("f.csv", "1,2\n3,4\n", "no column 'index'"),
        ("f.txt", "1, 2, x\n", "line 1: 'x' is not an integer"),
        ("f.txt", "a/b.png\n", "these data have no files"),
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


FILES = ["/data/cat/1.png", "/data/cat/2.png", "/data/dog/1.png", "/data/dog/a, b #3.png", None]


def file_of(index: int) -> str | None:
    return FILES[index]


@pytest.mark.parametrize(
    ("name", "text", "indices"),
    [
        ("f.txt", "2.png\ndog/1.png\n", [1, 2]),
        ("f.txt", "cat/2.png, dog/1.png, 0\n", [1, 2, 0]),
        ("f.txt", "../data/cat/1.png  # sure\n", [0]),
        ("f.txt", "./dog\\1.png\n", [2]),
        ("f.txt", "a, b #3.png\n", [3]),
        ("f.csv", "file,label\ncat/2.png,3\n/data/dog/1.png,4\n", [1, 2]),
        ("f.csv", "2.png\n", [1]),
        ("f.json", '["2.png", 0]', [1, 0]),
    ],
)
def test_samples_are_named_by_their_files(tmp_path: Path, name: str, text: str, indices: list[int]):
    (tmp_path / name).write_text(text)
    assert read_indices(tmp_path / name, 5, file_of) == indices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1.png\n",
            "line 1: 2 samples have a file '1.png', /data/cat/1.png and /data/dog/1.png; give more of the path",
        ),
        ("2.png\ncow/2.png\n", "line 2: 'cow/2.png' is no index and no file of the training data, such as /data/cat/1"),
        ("/other/cat/2.png\n", "'/other/cat/2.png' is no index and no file"),
    ],
)
def test_a_file_name_that_is_no_samples_or_several_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        read_indices(tmp_path / "f.txt", 5, file_of)


def test_the_indices_themselves_may_stand_in_place_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert read_indices("7,2, 9", 10) == [7, 2, 9]
    assert read_indices("7", 10) == [7]
    with pytest.raises(DataError, match="the list '7,10', entry 2: index 10 is out of range"):
        read_indices("7,10", 10)
    Path("7").write_text("3")  # a file of that name, which has no suffix
    with pytest.raises(DataError, match="the suffix '' is not known"):
        read_indices("7", 10)


def test_a_sample_given_twice_counts_once_and_is_a_note(tmp_path: Path):
    (tmp_path / "f.txt").write_text("4\n5\n4\ncat/1.png\n0\n")
    with pytest.warns(PotionWarning, match=r"each counts once: 4 \(line 3\), 0 \(line 5\)$") as caught:
        assert read_indices(tmp_path / "f.txt", 10, lambda index: FILES[index % 5] if index < 5 else None) == [4, 5, 0]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("text", ["-3,4", "3 4", "a,b", ""])
def test_what_is_no_list_of_indices_is_a_path(text: str):
    with pytest.raises(DataError, match="is not known"):
        read_indices(text, 10)
