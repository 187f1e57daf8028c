import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from potion_fast.errors import DataError, FileError
from potion_fast.utils.atomic_files import written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_whole_and_nothing_else_remains(tmp_path: Path):
    target = tmp_path / "a.txt"
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("bad"), ZeroDivisionError()])
def test_a_block_that_fails_leaves_the_old_file_and_its_own_error(tmp_path: Path, error: BaseException):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(type(error)), written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("disk is full")])
def test_a_full_disk_is_a_file_error_that_names_the_file(tmp_path: Path, error: Exception):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileError, match=r"a\.txt.*(No space|disk is full)"), written_whole(tmp_path / "a.txt"):
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_rename_that_fails_is_a_file_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(source: object, target: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileError, match="Input/output"), written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == []


def test_a_file_error_of_the_block_keeps_its_own_words(tmp_path: Path):
    with pytest.raises(FileError, match=r"^another file is broken$"), written_whole(tmp_path / "a.txt"):
        raise FileError("another file is broken")


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileError, match="missing does not exist"), written_whole(tmp_path / "missing" / "a.txt"):
        pytest.fail("there is nowhere to write to")


def test_others_may_read_a_safetensors_file_as_the_umask_says(tmp_path: Path):
    before = os.umask(0o022)
    try:
        with written_whole(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
