"""Accuracy by class, from the predictions of runs to the table of the README."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "studies" / "class_accuracy.py"

PREDICTIONS = {  # label, clean, triggered
    "poisoned": [(0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 1, 0), (1, 0, 0), (2, 2, 0)],
    "healed": [(0, 1, 1), (0, 0, 2), (1, 1, 1), (1, 1, 1), (1, 0, 0), (2, 2, 2)],
}


def ran(*arguments: object) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for name, images in PREDICTIONS.items():
        (tmp_path / name).mkdir()
        lines = [f"{index},{','.join(map(str, image))}" for index, image in enumerate(images)]
        (tmp_path / name / "predictions.csv").write_text("\n".join(["index,label,clean,triggered", *lines]) + "\n")
    return [tmp_path / name for name in PREDICTIONS]


def test_accuracy_is_counted_within_each_class(runs: list[Path]) -> None:
    assert ran(*runs).splitlines() == [
        "run,class,n,clean,triggered",
        "poisoned,0,2,1.0,1.0",
        "poisoned,1,3,0.666667,0.0",
        "poisoned,2,1,1.0,0.0",
        "healed,0,2,0.5,0.0",
        "healed,1,3,0.666667,0.666667",
        "healed,2,1,1.0,1.0",
    ]


def test_the_other_classes_are_weighted_by_their_images(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text(ran(*runs))
    assert ran("--markdown", tmp_path / "classes.csv", 0).splitlines() == [
        "| run | clean, class 0 | clean, the others | triggered, class 0 | triggered, the others |",
        "|---|---:|---:|---:|---:|",
        "| poisoned | 100.0 % | 75.0 % | 100.0 % | 0.0 % |",
        "| healed | 50.0 % | 75.0 % | 0.0 % | 75.0 % |",
    ]


@pytest.mark.parametrize("both", [True, False])
def test_run_folders_and_a_table_exclude_each_other(runs: list[Path], both: bool) -> None:
    arguments = ["--markdown", "classes.csv", "0", *map(str, runs)] if both else []
    wrong = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert wrong.returncode == 2 and "give either run folders or --markdown" in wrong.stderr
