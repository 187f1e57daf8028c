"""Search for poison in a user's own data without any found sample, whose list heals the model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.own_models import CLASSES, Digits, SmallNet, grey_inputs, make_digits, scores, train
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.detection import Suspects


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    made = make_digits(tmp_path_factory.mktemp("found") / "images")
    torch.manual_seed(0)
    model = train(SmallNet(10), grey_inputs(made.pixels), made.labels, 5)
    torch.save(model.state_dict(), made.folder.parent / "mine.pth")
    return made


def test_what_is_found_without_any_found_sample_heals_the_model(digits: Digits, tmp_path: Path, capsys: Any):
    weights = digits.folder.parent / "mine.pth"
    names = ["--weights", weights, "--model", "helpers.own_models:SmallNet", "--data", digits.folder]
    given = [*map(str, names), "--mean", "0.5", "--std", "0.5", "--quiet", "--device", "cpu"]
    assert cli.main(["find", *given, "--out", str(tmp_path / "found")]) == output.DONE
    report = capsys.readouterr().out
    assert f"--suspects {tmp_path / 'found'}/suspects.csv" in report
    listed = Suspects.load(tmp_path / "found" / "suspects.csv")
    assert len(set(listed.indices.tolist()) & set(digits.poisoned)) > 50
    assert len(set(listed.indices.tolist()) - set(digits.poisoned)) < 8
    with (tmp_path / "found" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["name"] == CLASSES[0] and float(rows[0]["p_value"]) < 0.005 < float(rows[1]["p_value"])
    assert len(rows) == 10
    content = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert content["suspects"] == len(listed) and (tmp_path / "found" / "suspects.png").is_file()
    suspects = str(tmp_path / "found" / "suspects.csv")
    assert cli.main(["heal", *given, "--suspects", suspects, "--out", str(tmp_path / "healed")]) == output.DONE
    healed = SmallNet(10)
    healed.load_state_dict(torch.load(tmp_path / "healed" / "healed.pth", weights_only=True))
    clean, attacked = scores(healed, digits, grey_inputs)
    assert clean > 0.9 and attacked < 0.05


def test_the_two_forms_of_the_command_are_told_apart(tmp_path: Path, capsys: Any):
    for flags, words in (
        ([], "name one model: the folder of a training run (RUN), or your own, as in potion-fast find --weights"),
        (["run", "--weights", "m.pth"], "name one model"),
        (["run", "--mean", "0.5"], "--mean belongs to a model of your own (--weights)"),
        (["--weights", "m.pth", "--root", "."], "--root belongs to a training run (RUN)"),
    ):
        assert cli.main(["find", *flags, "--out", str(tmp_path / "out")]) == output.FAILED
        assert words in capsys.readouterr().err
