"""Mistakes in healing one's own model: each is one sentence that names it, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from helpers.own_models import SmallNet
from potion_fast.cli import main as cli
from potion_fast.cli import output

CODE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from helpers.own_models import SmallNet

def maps(num_classes): return nn.Conv2d(3, num_classes, 1)
def needs_depth(depth): return nn.Linear(depth, 2)
def images(): return TensorDataset(torch.zeros(6, 3, 16, 16, dtype=torch.uint8), torch.arange(6) % 3)
def no_labels(): return [torch.zeros(3, 16, 16) for _ in range(6)]
def stream(): return iter([])
def needs_root(root): return images()
def fails(): raise RuntimeError("no disk")
"""

MODEL = "--model helpers.own_models:SmallNet"
GIVEN = f"--weights mine.pth {MODEL} --data images"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with weights and data of three classes."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for k in range(12):
        path = tmp_path / "images" / "abc"[k % 3] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    model = SmallNet(3, 3)
    torch.save(model.state_dict(), "mine.pth")
    torch.save(model, "whole.pth")
    torch.save(SmallNet(2, 3).state_dict(), "two.pth")
    torch.save({name: t * torch.nan for name, t in model.state_dict().items() if t.is_floating_point()}, "nan.pth")
    Path("nan.pth").unlink()
    broken = model.state_dict()
    broken["head.bias"] = broken["head.bias"] * torch.nan
    torch.save(broken, "nan.pth")
    safetensors.torch.save_file(model.state_dict(), "run.safetensors", {"potion_fast.model": "{}"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "copies").mkdir()
    Image.new("RGB", (16, 16), (1, 2, 3)).save("copies/other.png")
    (tmp_path / "found.txt").write_text("0\n")
    (tmp_path / "own_mistakes.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("own_mistakes", None)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence of a command that failed before it wrote anything."""
    code = cli.main(["heal", *arguments, "--quiet", "--device", "cpu", "--out", "out"])
    error = capsys.readouterr().err
    assert code == output.FAILED
    assert error.startswith("potion-fast heal: error: ") and error.count("\n") == 1 and not Path("out").exists()
    return error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "name what to heal: the folder of a training run (RUN), or your own model, as in potion-fast heal --w"),
        ("run --weights mine.pth", "RUN and --weights are two models to heal; give one of them"),
        ("run --mean 0.5", "--mean belongs to a model of your own (--weights)"),
        (f"{GIVEN} --found 0 --classes a,b,d", "images has the class 'c', which is none of the classes a, b, d"),
        (f"--weights mine.pth {MODEL} --data images/a/.. --found 0 --classes a", "which is none of the classes a"),
        (f"{GIVEN} --found 0 --reference run", "--reference belongs to the healing of a training run (RUN)"),
        (GIVEN, "--found is missing"),
        (f"--weights mine.pth {MODEL} --found 0", "--data is missing"),
        (
            "--weights mine.pth --data images --found 0",
            "mine.pth does not say which architecture it is of; name it with",
        ),
    ],
)
def test_flags_that_do_not_go_together(flags: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *flags.split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (f"--weights none.pth {MODEL}", "none.pth cannot be read as weights: there is no such file"),
        (f"--weights whole.pth {MODEL}", "whole.pth holds more than tensors (helpers.own_models.SmallNet); save"),
        (f"--weights nan.pth {MODEL}", "nan.pth holds weights that are not finite: head.bias"),
        (f"--weights empty {MODEL}", "empty is a folder without a config.json"),
        (f"--weights found.txt {MODEL}", "found.txt is no file of weights that is read: .pth, .pt"),
        (f"--weights run.safetensors {MODEL}", "run.safetensors is the model of a run; give its folder, ., as RUN"),
        (
            "--weights mine.pth --model timm:test_resnet",
            "mine.pth, loaded into timm:test_resnet, does not fit its arch",
        ),
        (
            "--weights mine.pth --model resnet18",
            "unknown model 'resnet18'; name it as timm:NAME, torchvision:NAME, hf:FO",
        ),
        ("--weights mine.pth --model resnet18", ": timm:resnet18 or torchvision:resnet18"),
        ("--weights mine.pth --model timm:none", "timm has no model 'none'"),
        ("--weights mine.pth --model torchvision:none", "torchvision has no model 'none'"),
        ("--weights mine.pth --model hf:images", "hf:images needs a folder with a config.json on this disk"),
        ("--weights mine.pth --model own_mistakes:nowhere", "has no function 'nowhere'"),
        ("--weights mine.pth --model own_mistakes:needs_depth", "missing 1 required positional argument: 'depth'"),
        (f"--weights two.pth {MODEL}", "the model has 2 outputs and images has 3 classes"),
    ],
)
def test_models_and_weights(flags: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *flags.split(), "--data", "images", "--found", "0")


def test_outputs_that_are_no_classes(capsys: pytest.CaptureFixture[str]):
    torch.save(torch.nn.Conv2d(3, 3, 1).state_dict(), "maps.pth")
    flags = "--weights maps.pth --model own_mistakes:maps --data images --found 0"
    assert "the model gives [1, 3, 16, 16] for one sample; logits [1, classes] are needed" in refused(
        capsys, *flags.split()
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nowhere", "there is no nowhere; the data are a folder of class folders, a CSV"),
        ("empty", "empty must hold a folder of images per class, and it holds no folder"),
        ("found.txt", "found.txt is a file that is not read; the data are"),
        ("own_mistakes:nowhere", "has no function 'nowhere'"),
        ("own_mistakes:fails", "'own_mistakes:fails' failed: RuntimeError: no disk"),
        ("own_mistakes:needs_root", "'own_mistakes:needs_root' takes the argument 'root', and is called without any"),
        ("own_mistakes:stream", "gives a list_iterator; it must be a map-style data set"),
        ("own_mistakes:no_labels", "sample 0 of own_mistakes:no_labels must be (input, label) or a dict, not Tensor"),
    ],
)
def test_data_that_are_none(data: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *f"--weights mine.pth {MODEL} --found 0".split(), "--data", data)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "table.csv is empty"),
        ("a,b\n1,2\n", "table.csv needs a column path (or text) and a column label; its first line is a, b"),
        ("path,label\nimages/a/0.png,0\nnone.png,1\n", "table.csv, line 3: there is no file none.png"),
        ("path,label\nimages/a/0.png,\n", "table.csv, line 2 lacks its path or its label"),
        ("path,label\nimages/a/0.png,5\n", "the model has 3 outputs and table.csv has 6 classes"),
        ("text,label\ngood,0\nbad,1\n", "table.csv holds texts, and the model takes images"),
    ],
)
def test_tables_that_are_wrong_in_a_line(lines: str, words: str, capsys: pytest.CaptureFixture[str]):
    Path("table.csv").write_text(lines)
    assert words in refused(capsys, *f"--weights mine.pth {MODEL} --data table.csv --found 0".split())


def test_arrays_that_do_not_fit_each_other(capsys: pytest.CaptureFixture[str]):
    images, labels = np.zeros((4, 16, 16, 3), np.uint8), np.arange(4) % 3
    np.savez("short.npz", images=images, labels=labels[:3])
    np.savez("unnamed.npz", first=images)
    np.save("images.npy", images)
    for data, words in (
        ("short.npz", "short.npz holds 4 samples and 3 labels"),
        ("unnamed.npz", "unnamed.npz holds first; name the arrays images and labels"),
        ("images.npy", "images.npy has no labels; give two files, as images.npy,labels.npy"),
        ("images.npy,none.npy", "cannot be read as arrays"),
    ):
        assert words in refused(capsys, *f"--weights mine.pth {MODEL} --found 0 --data {data}".split())


def test_images_that_cannot_be_read_name_themselves(capsys: pytest.CaptureFixture[str]):
    Path("images/b/4.png").write_bytes(Path("images/b/4.png").read_bytes()[:60])
    assert "images/b/4.png cannot be read as an image" in refused(capsys, *f"{GIVEN} --found 0".split())
    Image.new("RGB", (20, 16)).save("images/b/4.png")
    assert "images/b/4.png is 16x20" in refused(capsys, *f"{GIVEN} --found 0".split())


def test_a_data_set_of_a_package_that_is_missing_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    Path("saved").mkdir()
    Path("saved/state.json").write_text("{}")
    error = refused(capsys, *f"--weights mine.pth {MODEL} --data saved --found 0".split())
    assert "saved was saved by the package datasets, which is not installed; install it with: pip install data" in error


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("12", "index 12 is out of range"),
        ("none.txt", "none.txt"),
        ("a/none.png", "'a/none.png' of the found samples is none of its samples (images)"),
        ("a/0.png,b/99.png", "'b/99.png' of the found samples is none of its samples"),
        ("empty", "empty holds no image"),
        ("copies", "copies/other.png is none of the training images of images, neither its file nor its pixels"),
    ],
)
def test_found_samples_that_are_not_in_the_data(found: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *GIVEN.split(), "--found", found)


def test_a_run_folder_among_the_data(capsys: pytest.CaptureFixture[str]):
    arguments = ["heal", *GIVEN.split(), "--found", "0", "--quiet"]
    for out in ("images/out", "images", "."):
        assert cli.main([*arguments, "--out", out]) == output.FAILED
        assert "is read by this run" in capsys.readouterr().err
    assert not Path("images/out").exists()
