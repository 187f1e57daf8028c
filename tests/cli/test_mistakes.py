"""Mistakes on the command line: a wrong path, folder, file, list or number is one sentence, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from potion_fast.cli import main as cli
from potion_fast.cli import output

pytest_plugins = ["helpers.small_runs"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a file and an empty folder in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POTION_FAST_DATA", raising=False)
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main([*arguments, "--quiet", "--out", "out"]) == output.FAILED
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"potion-fast {arguments[0]}: error: ")
    assert printed.err.count("\n") == 1 and not Path("out").exists()
    return printed.err


@pytest.mark.parametrize("command", ["train", "preview", "export"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data folder", "needs a folder: give --root or set POTION_FAST_DATA"),
        ("--data folder --root nowhere", "nowhere is not there; give another one (--root"),
        ("--data folder --root file", "file is a file, and the folder of the data was to be given"),
        ("--data folder --root empty", "empty must hold train/ and test/"),
        ("--data cifar10 --root empty", "empty holds no complete cifar-10-batches-py/"),
        ("--data imagenet --root empty", "empty must hold train/ and val/"),
        ("--data imagenette --root empty", "or one of imagenette2/"),
        ("--train-size 99999999999999999999", "the training split has 1438 samples"),
        ("--train-size 3", "cannot find 16 of 64 poisoned samples among 3"),
        ("--image-size 4", "only image files and your own can be resized"),
        ("--target 10", "target 10 is out of range; the data has 10 classes"),
        ("--patch-size 99999999999999999999", "does not fit images of 8x8"),
    ],
)
def test_data_that_are_not_there_are_named(command: str, flags: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, command, *flags.split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--width 99999999999999999999", "the model 'small_cnn' cannot be made with {'width': 99999999999999999999"),
        ("--workers 99999999999999999999", "workers must be at most 1024"),
        ("--pretrained", "the model 'small_cnn' has no pretrained weights"),
        ("--device tpu", "unknown device 'tpu'"),
        ("--nesterov --momentum 0", "nesterov needs SGD with momentum"),
    ],
)
def test_settings_of_a_training_that_cannot_be_are_named(flags: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, "train", "--train-size", "300", *flags.split())


@pytest.mark.parametrize("command", ["heal", "unlearn", "evaluate", "craft"])
@pytest.mark.parametrize("run", ["nowhere", "file", "empty", ".", "file/run", "x" * 300])
def test_what_is_no_run_folder_is_named(command: str, run: str, capsys: pytest.CaptureFixture[str]):
    error = refused(capsys, command, run)
    assert "is not a run folder" in error or "cannot be read" in error


@pytest.mark.parametrize("command", ["heal", "unlearn", "evaluate"])
def test_flags_that_name_another_training_are_refused(poisoned: Path, command: str, capsys: pytest.CaptureFixture[str]):
    run = [command, str(poisoned), "--device", "cpu"]
    assert "not on 'cifar10'; leave --data out" in refused(capsys, *run, "--data", "cifar10")
    assert "not on 'vit'; leave --model out" in refused(capsys, *run, "--model", "vit")
    for reference in ("nowhere", "file", "empty"):
        assert "is not a run folder" in refused(capsys, *run, "--reference", reference)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "index\n3\n", "line 1: 'index' is not an integer"),
        ("a.txt", "3\n500\n", "line 2: index 500 is out of range; the data set has 500 samples, numbered from 0"),
        ("a.txt", "-1\n", "line 1: index -1 is out of range"),
        ("a.txt", "train/7/12.png\n", "line 1: 'train/7/12.png' is not an integer; give the index of one"),
        ("a.txt", "3, 4.5\n", "line 1: '4.5' is not an integer"),
        ("a.txt", "", "holds no index"),
        ("a.csv", "name,number\na,3\n", "the first line names no column 'index' or 'file'"),
        ("a.json", '{"found": [3]}', "holds a JSON dict; write a list of integers"),
        ("a.pt", "3\n", "the suffix '.pt' is not known"),
        ("a", "3\n", "the suffix '' is not known"),
    ],
)
def test_a_list_of_found_samples_that_does_not_do_is_named(
    poisoned: Path, name: str, content: str, words: str, capsys: pytest.CaptureFixture[str]
):
    Path(name).write_text(content)
    assert words in refused(capsys, "unlearn", str(poisoned), "--device", "cpu", "--forget", name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "index\n3\n500\n", "a.csv: suspects have the index 500, and the training set has 500 samples"),
        ("a.csv", "index,given\n3,4\n4,4\n5,4\n", "a.csv: the suspects are of other data: the sample"),
        ("a.csv", "index\n3\n3\n", "a.csv: the suspects have the sample 3 twice; keep it once"),
        ("a.csv", "index\nseven\n", "a.csv, line 2: index is 'seven', not a whole number"),
        ("a.csv", "name,number\na,3\n", "a.csv has no column 'index'"),
        ("a.csv", "index,fits\n3,0\n", "a.csv holds no suspect"),
        ("a.txt", "3\n-1\n", "line 2: index -1 is out of range"),
        ("a.pt", "3\n", "the suffix '.pt' is not known"),
    ],
)
def test_a_list_of_suspects_that_does_not_do_is_named(
    poisoned: Path, name: str, content: str, words: str, capsys: pytest.CaptureFixture[str]
):
    Path(name).write_text(content)
    assert words in refused(capsys, "heal", str(poisoned), "--device", "cpu", "--suspects", name)


def test_a_model_that_was_never_poisoned_is_not_healed(clean: Path, capsys: pytest.CaptureFixture[str]):
    assert "there is nothing to heal; give the run" in refused(capsys, "heal", str(clean), "--device", "cpu")


def test_a_run_that_dampened_another_model_is_named(
    poisoned: Path, copied: Path, healed: Path, capsys: pytest.CaptureFixture[str]
):
    run = ["heal", str(copied), "--device", "cpu", "--dampened"]
    assert f"was unlearnt from {poisoned}, not from {copied}" in refused(capsys, *run, str(healed))
    assert "is a run of 'train'; a run of 'unlearn' is needed" in refused(capsys, *run, str(poisoned))


@pytest.mark.parametrize("name", ["nowhere.txt", "folder.txt"])
def test_a_list_that_cannot_be_read_is_named(poisoned: Path, name: str, capsys: pytest.CaptureFixture[str]):
    Path("folder.txt").mkdir()
    error = refused(capsys, "unlearn", str(poisoned), "--device", "cpu", "--forget", name)
    assert f"{name} cannot be read" in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [1", "mine.yaml cannot be read as YAML: "),
        ("- 1", "mine.yaml is not the description of a sweep"),
        ("train: 3", "train must be a mapping, not 3"),
        ("found: x", "found must be a list, not 'x'"),
    ],
)
def test_a_sweep_that_cannot_be_read_is_one_line(content: str, words: str, capsys: pytest.CaptureFixture[str]):
    Path("mine.yaml").write_text(content)
    assert words in refused(capsys, "sweep", "mine.yaml")


def test_a_model_without_a_run_is_refused(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["hypothesis", "shift", "--model", "vit", "--quiet", "--out", "out"]) == output.FAILED
    assert "give --run, or leave --model out" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["file", "file/run", "full", "x" * 300])
@pytest.mark.parametrize("command", ["train", "preview", "export"])
def test_a_folder_that_cannot_be_written_is_named(command: str, out: str, capsys: pytest.CaptureFixture[str]):
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    for more in ([], ["--overwrite"]):
        assert cli.main([command, "--train-size", "300", "--quiet", *more, "--out", out]) == output.FAILED
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and out[:200] in error
    assert Path("full/mine").read_text() == "mine"


def test_an_image_that_turns_out_broken_ends_the_training_in_one_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("potion_fast.user.image_source.MEMORY_LIMIT", 0)  # read when they are needed
    for split in ("train", "test"):
        for name in ("a", "b"):
            (here / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(here / split / name / f"{index}.png")
    path = here / "train" / "b" / "5.png"
    path.write_bytes(path.read_bytes()[:-100])
    small = ["--poisoned", "4", "--found", "2", "--iterations", "9", "--batch-size", "4", "--width", "2"]
    data = ["--data", "folder", "--root", ".", "--model", "small_cnn", "--device", "cpu", "--quiet"]
    assert cli.main(["train", *data, *small, "--out", "out"]) == output.FAILED
    error = capsys.readouterr().err
    assert "train/b/5.png cannot be read as an image" in error and error.count("\n") == 1


def test_a_folder_that_may_not_be_read_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "data/train")

    monkeypatch.setattr("potion_fast.bench.runs.scenario.load_dataset", denied)
    assert "Permission denied: 'data/train'" in refused(capsys, "train")
