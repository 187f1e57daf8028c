from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.run_files import rows, scenario_of
from potion_fast.bench.runs.side_by_side import ComparedModel, class_columns, class_rows
from potion_fast.errors import DataError, FileError
from potion_fast.user.run_folder import RunFolder

pytest_plugins = ["helpers.small_runs"]


def test_what_a_run_says_is_read_and_counted_by_class(poisoned: Path):
    scenario = scenario_of(poisoned)
    model = ComparedModel.of_run("poisoned", RunFolder.open(poisoned), scenario, {})
    assert model.attacked is not None
    written = rows(poisoned / "predictions.csv")
    assert model.clean.tolist() == [int(row["clean"]) for row in written]
    assert model.attacked.tolist() == [int(row["triggered"]) for row in written]
    table = [dict(zip(class_columns(scenario), row, strict=True)) for row in class_rows(scenario, [model])]
    for label in (0, 7):
        own = [row for row in written if row["label"] == str(label)]
        right = sum(row["triggered"] == row["label"] for row in own) / len(own)
        (line,) = (line for line in table if line["class"] == label)
        assert (line["n"], line["n_attacked"], line["model"]) == (len(own), len(own), "poisoned")
        assert line["triggered_accuracy"] == pytest.approx(right, abs=1e-6)


def test_predictions_of_other_data_and_broken_ones_are_refused(copied: Path):
    scenario, run, path = scenario_of(copied), RunFolder.open(copied), copied / "predictions.csv"
    lines = path.read_text().splitlines()
    for changed, error, words in (
        (lines[:-1], DataError, "was evaluated on other test images"),
        ([*lines[:-1], "9,x,1,1"], FileError, "predictions.csv cannot be read"),
        ([lines[0], *(f"{line.rsplit(',', 1)[0]},10" for line in lines[1:])], FileError, "a class that is not there"),
        ([], FileError, "evaluate the run again"),
    ):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(error, match=words):
            ComparedModel.of_run("poisoned", run, scenario, {})
    path.unlink()
    with pytest.raises(FileError, match="cannot be read"):
        ComparedModel.of_run("poisoned", run, scenario, {})


def test_a_class_without_a_sample_has_no_accuracy(poisoned: Path):
    scenario = scenario_of(poisoned)
    labels = scenario.splits.test.labels
    model = ComparedModel("healed", labels, None, {})
    scenario.splits.test.labels = torch.where(labels == 3, 4, labels)
    line = list(class_rows(scenario, [model]))[3]
    assert line[3:5] == [0, ""] and line[-1] == ""
