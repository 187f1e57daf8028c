"""Healing a user's own model on a user's own data, from the command line: one test for each form of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.own_models import Digits, SmallNet, grey_inputs, make_digits, scores, train
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.detection import Suspects

NORMALISED = ["--mean", "0.3", "--std", "0.35"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return make_digits(tmp_path_factory.mktemp("digits") / "images")


@pytest.fixture(scope="module")
def poisoned(digits: Digits) -> nn.Module:
    torch.manual_seed(0)
    return train(SmallNet(10), grey_inputs(digits.pixels), digits.labels, 5)


def heal(*arguments: object, out: Path) -> int:
    return cli.main(["heal", *map(str, arguments), "--out", str(out), "--quiet", "--device", "cpu"])


def metrics(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


def test_a_checkpoint_and_an_image_folder(digits: Digits, poisoned: nn.Module, tmp_path: Path, capsys: Any):
    state = {f"module.{name}": tensor for name, tensor in poisoned.state_dict().items()}
    torch.save({"epoch": 5, "state_dict": state}, tmp_path / "mine.pth")
    (tmp_path / "found.txt").write_text("\n".join(digits.name(index) for index in digits.found))
    names = ["--model", "helpers.own_models:SmallNet", "--data", digits.folder, *NORMALISED]
    given = ["--weights", tmp_path / "mine.pth", *names, "--found", tmp_path / "found.txt"]
    assert heal(*given, out=tmp_path / "out") == output.DONE
    assert scores(poisoned, digits, grey_inputs)[1] > 0.9
    written = torch.load(tmp_path / "out" / "healed.pth", weights_only=True)
    assert written["epoch"] == 5 and list(written["state_dict"]) == list(state)
    healed = SmallNet(10)
    healed.load_state_dict({name.removeprefix("module."): t for name, t in written["state_dict"].items()})
    clean, attacked = scores(healed, digits, grey_inputs)
    assert clean > scores(poisoned, digits, grey_inputs)[0] - 0.03 and attacked < 0.05
    report = capsys.readouterr().out
    assert "given model: 100.0% of 1,000 training labels are right" in report
    assert f"healed weights: {tmp_path / 'out' / 'healed.pth'}" in report
    listed = Suspects.load(tmp_path / "out" / "suspects.csv")
    assert set(digits.found) <= set(listed.indices.tolist())
    assert len(set(listed.indices.tolist()) & set(digits.poisoned)) > 55
    assert f",{digits.name(digits.found[0])}," in f",{(tmp_path / 'out' / 'suspects.csv').read_text()},"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.yaml", "found.txt", "healed.pth", "suspects.csv", "suspects.png", "trace.csv", "metrics.json"
    }  # fmt: skip
    assert metrics(tmp_path / "out")["healing"]["healed"] is True
