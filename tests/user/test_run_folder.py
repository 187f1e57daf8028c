import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from potion_fast import __version__
from potion_fast.bench.data import read_indices
from potion_fast.errors import FileError
from potion_fast.user.run_folder import OUTPUTS, RunFolder, strict

INF, NAN = float("inf"), float("nan")


def a_run(path: Path, command: str = "train", **config: Any) -> RunFolder:
    run = RunFolder.create(path)
    run.write_config(command, config)
    return run


def test_folders_on_the_way_are_made(tmp_path: Path):
    assert RunFolder.create(tmp_path / "a" / "b").path.is_dir()


def test_a_taken_folder_is_refused_and_unchanged(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileError, match="choose another folder"):
            RunFolder.create(tmp_path, overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_with_a_foreign_config_is_not_overwritten(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("debug: true\n")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(FileError, match="not the folder of an earlier run"):
        RunFolder.create(tmp_path, overwrite=True)
    assert (tmp_path / "metrics.json").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "run").write_text("")
    for overwrite in (False, True):
        with pytest.raises(FileError):
            RunFolder.create(tmp_path / "run", overwrite)
    with pytest.raises(FileError, match="cannot make"):
        RunFolder.create(tmp_path / "run" / "below")


def test_overwriting_removes_every_result_of_the_earlier_run_and_nothing_else(tmp_path: Path):
    run = a_run(tmp_path)
    outputs = {name for names in OUTPUTS.values() for name in names}
    for name in (*outputs, "notes.txt"):
        run.write_text(name, "old")
    with pytest.raises(FileError, match="already there"):
        RunFolder.create(tmp_path)
    assert (run / "metrics.json").read_text() == "old"
    RunFolder.create(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


@pytest.mark.parametrize("name", ["missing", "a" * 300])
def test_opening_what_is_no_run_folder_is_a_clear_error(tmp_path: Path, name: str):
    with pytest.raises(FileError, match=name):
        RunFolder.open(tmp_path / name)


def test_the_configuration_comes_back_with_its_command_and_versions(tmp_path: Path):
    config = {"run": "runs/ü/\udcff", "lr": 1e-05, "mean": [0.1, 0.2], "w": None, "device": "cpu"}
    run = a_run(tmp_path, "unlearn", **config)
    assert RunFolder.open(tmp_path).read_config("train", "unlearn") == ("unlearn", config)
    versions = yaml.safe_load((run / "config.yaml").read_text())["versions"]
    assert versions["potion_fast"] == __version__
    assert versions["torch"] == torch.__version__
    assert versions["hardware"].endswith(f"{torch.get_num_threads()} of {os.cpu_count()} threads")


def test_a_run_of_another_command_is_refused_by_name(tmp_path: Path):
    run = a_run(tmp_path, "evaluate")
    with pytest.raises(FileError, match="a run of 'evaluate'; a run of 'train' or 'unlearn' is needed"):
        run.read_config("train", "unlearn")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a list",
        b"command: train\nconfig: 3\nversions: {}",
        b"command: train\nconfig: {}",
        b"command: train\nconfig: {}\nversions: {}\nseed: 3",
        b"command: [",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.getcwd []",
    ],
)
def test_a_broken_configuration_is_a_file_error(tmp_path: Path, content: bytes):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(FileError, match=r"config\.yaml"):
        RunFolder.open(tmp_path).read_config("train")


def test_json_is_strict(tmp_path: Path):
    content = {"a": NAN, "b": [INF, -INF, 1.5], "c": (1, "x", None, True), "path": "α\udcff"}
    run = a_run(tmp_path)
    run.write_json("metrics.json", content)
    text = (run / "metrics.json").read_bytes().decode()  # valid UTF-8, whatever a path holds
    assert "α" in text
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {"a": None, "b": [None, None, 1.5], "c": [1, "x", None, True], "path": "α\udcff"}
    assert run.read_json("metrics.json") == read == strict(content)


@pytest.mark.parametrize("content", [None, b'{"a": ', b"\xff"])
def test_missing_or_broken_json_is_a_file_error(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(FileError, match=r"metrics\.json cannot be read"):
        RunFolder(tmp_path).read_json("metrics.json")


def test_a_table_without_rows_still_names_its_columns(tmp_path: Path):
    run = a_run(tmp_path)
    run.write_csv("trace.csv", ("step", "alpha"), [])
    run.write_csv("curve.csv", ("name", "x"), [("a,b", 0.1), ("c", None)])
    assert (run / "trace.csv").read_bytes() == b"step,alpha\n"
    assert (run / "curve.csv").read_bytes() == b'name,x\n"a,b",0.1\nc,\n'


def test_written_indices_are_read_again(tmp_path: Path):
    a_run(tmp_path).write_indices("found.txt", {7, 0, 3})
    assert (tmp_path / "found.txt").read_text() == "0\n3\n7\n"
    assert read_indices(tmp_path / "found.txt", 8) == [0, 3, 7]
