"""Search for poison in a user's own data without any found sample, whose list heals the model."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.own_models import CLASSES, Digits, SmallNet, grey_inputs, make_digits, scores, stamped, train
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


def white_corner(images: torch.Tensor) -> torch.Tensor:
    """The digits' trigger, on inputs of the model."""
    images[..., -4:, -4:] = 1
    return images


@pytest.mark.parametrize("form", ["white:4:bottom-right", "#ffffff:4:12,12", f"{__name__}:white_corner", "folders"])
def test_a_described_trigger_names_those_that_carry_it(digits: Digits, form: str, tmp_path: Path):
    if form == "folders":
        for name, images in (("with", stamped(digits.test[:200])), ("without", digits.test[:200])):
            (tmp_path / name).mkdir()
            for index, image in enumerate(images):
                Image.fromarray(image[0].numpy()).save(tmp_path / name / f"{index:03d}.png")
        form = f"{tmp_path / 'with'},{tmp_path / 'without'}"
    flags = ["--weights", digits.folder.parent / "mine.pth", "--model", "helpers.own_models:SmallNet", "--data"]
    flags += [digits.folder, "--mean", 0.5, "--std", 0.5, "--trigger", form, "--out", tmp_path / "out", "--quiet"]
    assert cli.main(["find", *map(str, flags)]) == output.DONE
    listed = set(Suspects.load(tmp_path / "out" / "suspects.csv").indices.tolist())
    assert len(listed & set(digits.poisoned)) > 55 and len(listed - set(digits.poisoned)) < 8
    assert "the trigger gives" in json.loads((tmp_path / "out" / "metrics.json").read_text())["why"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("white", "is none of: a square COLOUR:SIZE:PLACE"),
        ("white:four:top-left", "the side is a whole number of pixels, not 'four'"),
        ("white:4:middle", "the place is top-left, top-right, bottom-left, bottom-right or ROW,COLUMN, not 'middle'"),
        ("white:4:14,0", "lies outside of images of 16 x 16"),
        ("nowhere:mark", "there is no module 'nowhere'"),
        (f"{__name__}:CLASSES", "has no function"),
    ],
)
def test_a_trigger_that_cannot_be_is_refused_in_one_line(digits: Digits, form: str, words: str, tmp_path: Path, capsys):
    flags = ["--weights", digits.folder.parent / "mine.pth", "--model", "helpers.own_models:SmallNet", "--data"]
    flags += [digits.folder, "--mean", 0.5, "--std", 0.5, "--trigger", form, "--out", tmp_path / "out", "--quiet"]
    assert cli.main(["find", *map(str, flags)]) == output.FAILED
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1


def test_label_errors_are_listed_in_place_of_poison(digits: Digits, tmp_path: Path, capsys: Any):
    pytest.importorskip("cleanlab", reason="cleanlab is missing: pip install potion-fast[label-errors]")
    flags = ["--weights", digits.folder.parent / "mine.pth", "--model", "helpers.own_models:SmallNet", "--data"]
    misfiled = [digits.name(int(index)) for index in (digits.labels == 7).nonzero().flatten()[:10]]
    shutil.copytree(digits.folder, tmp_path / "data")
    for name in misfiled:
        (tmp_path / "data" / name).rename(tmp_path / "data" / CLASSES[2] / f"of-{Path(name).name}")
    flags += [tmp_path / "data", "--mean", 0.5, "--std", 0.5, "--label-errors", "--quiet"]
    assert cli.main(["find", *map(str, flags), "--out", str(tmp_path / "out")]) == output.DONE
    report = capsys.readouterr().out
    assert "labels errors; its list has no stated error rate" in report
    listed = Suspects.load(tmp_path / "out" / "suspects.csv")
    names = [line.split(",")[1] for line in (tmp_path / "out" / "suspects.csv").read_text().splitlines()[1:]]
    assert sum("of-" in name for name in names) >= 7
    assert listed.proposed is not None and all(
        label == 7 for label, name in zip(listed.proposed.tolist(), names, strict=True) if "of-" in name
    )
    code = cli.main(["find", *map(str, flags), "--found", "3", "--out", str(tmp_path / "other")])
    assert code == output.FAILED and "leave --found and --trigger out" in capsys.readouterr().err
