"""Wrong usage: one line that names the flag, what may have been meant, and --help."""

from __future__ import annotations

from pathlib import Path

import pytest

from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.cli.parser import Parser

pytest_plugins = ["helpers.small_runs"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian --data digits", "invalid choice: 'trian' (choose from"),
        ("trian", "did you mean 'train'? (see potion-fast --help)"),
        ("", "the following arguments are required: COMMAND"),
        ("train", "train: error: the following arguments are required: --out (see potion-fast train --help)"),
        ("heal", "heal: error: the following arguments are required: "),
        ("train --dta digits --out x", "unknown argument '--dta'; did you mean '--data'?"),
        ("train --dta=digits --out x", "unknown argument '--dta=digits'; did you mean '--data'?"),
        ("train --out x zebra", "unknown argument 'zebra' (see"),
        ("train --data didgits --out x", "did you mean 'digits'?"),
        ("train --iterations two --out x", "--iterations must be a whole number, not 'two'"),
        ("train --lr fast --out x", "--lr must be a number, not 'fast'"),
        ("unlearn run --strategy bisct --out x", "did you mean 'bisect'?"),
        ("hypothesis shft --out x", "did you mean 'shift'?"),
        ("doctor --jsn", "did you mean '--json'?"),
    ],
)
def test_wrong_usage_is_one_line(line: str, words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and words in printed.err and "--help)" in printed.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --data folder", "needs a folder: give --root or set POTION_FAST_DATA"),
        ("train --data folder --root nowhere", "is not there; give another one (--root or POTION_FAST_DATA)"),
        ("train --workers 5000", "--workers must be at most 1024, not 5000"),
        ("train --batch-size 0", "--batch-size must be at least 1, not 0"),
        ("train --mean 3", "each of --mean must be at most 1, not 3.0"),
        ("train --image-size 4", "--image-size=4: only image files"),
        ("train --poison badnett", "did you mean 'badnet'?"),
        ("train --model smal_cnn", "did you mean 'small_cnn'?"),
        ("sweep potion/smok", "did you mean 'potion/smoke'?"),
        (
            "sweep potion/smoke train.widht=3 --dry-run",
            "unknown key 'widht' in the configuration; did you mean 'width'?",
        ),
    ],
)
def test_errors_of_the_library_name_the_flag(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POTION_FAST_DATA", raising=False)
    assert cli.main([*line.split(), "--quiet", "--out", "out"]) == output.FAILED
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--rho 3", "--rho must be in [0, 1], not 3.0"),
        ("--b-start 0", "--b-start must be above 0 and finite"),
        ("--s-step 1", "--s-step must be above 1 and finite"),
        ("--max-damage=-1", "--max-damage is a number of points"),
    ],
)
def test_errors_of_the_search_name_the_flag(
    flags: str, words: str, poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert (
        cli.main(["unlearn", str(poisoned), *flags.split(), "--quiet", "--out", str(tmp_path / "x")]) == output.FAILED
    )
    assert words in capsys.readouterr().err


def test_only_names_that_stand_for_themselves_become_flags():
    parser = Parser(prog="x")
    for flag in ("--max-damage", "--root", "--found"):
        parser.add_argument(flag)
    kept = "/a/max_damage/b and 'max_damage' and not_max_damage; found must be read from the root is there"
    assert parser.with_flags(kept) == kept
    assert (
        parser.with_flags("max_damage is 3, but max_damage must be 2")
        == "--max-damage is 3, but --max-damage must be 2"
    )
    assert parser.with_flags("found must be read") == "--found must be read"
    assert parser.with_flags("give it (--root, root=) or leave it (root=)") == "give it (--root) or leave it"


@pytest.mark.parametrize(
    ("finished", "state"), [(True, "an earlier run of 'train'"), (False, "an unfinished run of 'train'")]
)
def test_an_earlier_or_interrupted_run_names_overwrite(
    finished: bool, state: str, copied: Path, capsys: pytest.CaptureFixture[str]
):
    if not finished:
        (copied / "metrics.json").unlink()
    assert cli.main(["train", "--quiet", "--out", str(copied)]) == output.FAILED
    assert f"{state}; choose another folder, or write over it (--overwrite)" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_offered_to_be_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mine").write_text("mine")
    for more in ([], ["--overwrite"]):
        assert cli.main(["train", "--quiet", "--out", str(tmp_path), *more]) == output.FAILED
        assert "not the folder of an earlier run; choose another folder\n" in capsys.readouterr().err
