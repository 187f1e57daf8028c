"""The list of suspects: printed, saved, edited by a user, read back and compared with the training set."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from helpers.poisoned_features import poisoned_features
from potion_fast.detection import Suspects, suspects_from
from potion_fast.errors import DataError, FileError

COLUMNS = "index,file,score,p_value,given,proposed,found,fits"


@pytest.fixture(scope="module")
def found() -> Suspects:
    made = poisoned_features(0)
    clean = (~made.poison & (made.features.labels == 0)).nonzero().flatten()[:3]
    with pytest.warns(match="are not like the poison"):
        return suspects_from(made.features, torch.cat([made.draw(9, 0), clean]))


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return poisoned_features(0).features.labels


def test_it_cannot_be_changed(found: Suspects) -> None:
    with pytest.raises(FrozenInstanceError):
        found.rate = 0.5  # type: ignore[misc]


def test_it_is_printed_on_one_screen(found: Suspects) -> None:
    text = str(found)
    assert text.splitlines()[0] == f"{len(found)} suspects (trigger), {len(found) - 9} not among the 12 found; " + (
        "false ones: at most 5 %"
    )
    assert len(text.splitlines()) <= 24 and "first below it" in text and "warning: label 0: 3 of 12" in text
    assert str(int(found.indices[0])) in text and "tensor" not in text
    many = replace(found, by_label=found.by_label * 500, warnings=found.warnings * 500)
    assert len(str(many).splitlines()) <= 40 and "and 488 more labels" in str(many)


def test_what_is_saved_is_read_back(found: Suspects, labels: torch.Tensor, tmp_path: Path) -> None:
    proposed = torch.arange(len(found)) % 4 - 1
    found.save(tmp_path / "suspects.csv", proposed=proposed)
    read = Suspects.load(tmp_path / "suspects.csv")
    for name in ("indices", "scores", "p_values", "labels", "found", "fits"):
        assert torch.equal(getattr(read, name), getattr(found, name)), name
    assert read.proposed is not None and torch.equal(read.proposed, proposed)
    assert math.isnan(read.rate) and read.kind == "given"
    assert "no rate of false ones is stated" in str(read)
    read.save(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "suspects.csv").read_text()
    assert torch.equal(read.checked(labels).labels, found.labels)


def test_file_names_are_those_of_the_samples(found: Suspects, labels: torch.Tensor, tmp_path: Path) -> None:
    found.save(tmp_path / "suspects.csv", files=[f"{number}.png" for number in range(len(labels))])
    lines = (tmp_path / "suspects.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    assert all(line.split(",")[1] == f"{line.split(',')[0]}.png" for line in lines[1:])
    assert [line.split(",")[-2:] for line in lines[-3:]] == [["1", "0"]] * 3  # those that do not fit


def test_an_edited_file_is_read(found: Suspects, labels: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "suspects.csv"
    found.save(path)
    lines = path.read_text().splitlines()
    added = next(index for index in range(len(labels)) if index not in found.indices)
    path.write_text("\n".join([lines[0], *lines[2:], str(added)]))
    read = Suspects.load(path).checked(labels)
    assert read.indices.tolist() == [*found.indices.tolist()[1:], added]
    assert read.scores[-1].isnan() and read.labels[-1] == labels[added]
    assert read.proposed is None


@pytest.mark.parametrize(
    "text", ["index\n4\n7\n", "\ufeffindex;score\r\n4;1.5\r\n7;\r\n", "score,index\n,4\n2,7\n", "index\n\n 4\n7 \n"]
)
def test_a_list_of_indices_alone_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    read = Suspects.load(tmp_path / "mine.csv")
    assert read.indices.tolist() == [4, 7] and not len(read.found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4\n7\n", "no column 'index'"),
        ("", "no column 'index'"),
        ("index\n4\nx\n", "line 3: index is 'x'"),
        ("index,score\n,2\n", "line 2: index is ''"),
        ("index,score\n4,high\n", "line 2: score is 'high'"),
        ("index,proposed\n4,cat\n", "line 2: proposed is 'cat'"),
        ("index\n4\n4\n", "sample 4 twice"),
        ("index\n-4\n", "index -4"),
    ],
)
def test_a_wrong_row_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Suspects.load(tmp_path / "mine.csv")


def test_a_missing_or_foreign_file_is_named(found: Suspects, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="none.csv"):
        Suspects.load(tmp_path / "none.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(FileError, match="picture.csv"):
        Suspects.load(tmp_path / "picture.csv")
    with pytest.raises(FileError, match="nowhere"):
        found.save(tmp_path / "nowhere" / "suspects.csv")
    with pytest.raises(DataError, match="one each"):
        found.save(tmp_path / "suspects.csv", proposed=torch.zeros(1, dtype=torch.int64))
    assert not (tmp_path / "suspects.csv").exists()


def test_a_list_of_other_data_is_refused(found: Suspects, labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match="training set has 10 samples"):
        found.checked(labels[:10])
    with pytest.raises(DataError, match=f"the sample {int(found.indices[0])} has the label 0 in their list and 1"):
        found.checked(torch.ones_like(labels))


def test_an_own_list_keeps_its_order() -> None:
    labels = torch.tensor([3, 1, 4, 1, 5])
    made = Suspects.of_indices([4, 0, 2], labels=labels, found=[0])
    assert made.indices.tolist() == [4, 0, 2] and made.labels.tolist() == [5, 3, 4]
    assert made.found.tolist() == [0] and made.fits.tolist() == [True] and made.kind == "given"
    assert Suspects.of_indices(torch.tensor([2])).labels.tolist() == [-1]
    for wrong, text in (([1, 1], "sample 1 twice"), ([-1], "index -1"), ([9], "index 9"), ([0.5], "whole numbers")):
        with pytest.raises(DataError, match=text):
            Suspects.of_indices(wrong, labels=labels)
    with pytest.raises(DataError, match="whole numbers"):
        Suspects.of_indices(labels == 1)
