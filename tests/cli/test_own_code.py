"""Models and data sets of the user's own on the command line: what works, and what is said of the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from potion_fast.cli import main as cli
from potion_fast.cli import output

CODE = """
import torch
from types import SimpleNamespace
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.data import TensorDataset

def pair(channels, classes=3, size=16, images=None, labels=None):
    made = []
    for n in (60, 30):
        draw = torch.Generator().manual_seed(n)
        y = torch.arange(n) % classes
        x = torch.randint(0, 128, (n, channels, size, size), dtype=torch.uint8, generator=draw)
        x[torch.arange(n), :, y, y] = 255
        made.append(TensorDataset(x if images is None else images(x), y if labels is None else labels(y)))
    return made

def grey(): return pair(1)
def two_channels(): return pair(2)
def four_channels(): return pair(4)
def five_channels(): return pair(5)
def floats(): return pair(1, images=lambda x: x / 255)
def one_hot_labels(): return pair(3, labels=one_hot)
def column_labels(): return pair(3, labels=lambda y: y.view(-1, 1).float())
def one_based(): return pair(3, labels=lambda y: y + 1)
def fractions(): return pair(3, labels=lambda y: y / 2)
def two_classes(): return pair(1, classes=2)
def talks():
    print("reading ...")
    return pair(1)
def fails(): raise RuntimeError("no disk")

class Net(nn.Module):
    def __init__(self, outputs, channels, wrap=lambda logits: logits):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(64, outputs)
        self.wrap = wrap
    def forward(self, images):
        return self.wrap(self.head(self.body(images)))

def good(num_classes, in_channels): return Net(num_classes, in_channels)
def wrapped(num_classes, in_channels): return Net(num_classes, in_channels, lambda z: SimpleNamespace(logits=z))
def keyed(num_classes, in_channels): return Net(num_classes, in_channels, lambda z: {"logits": z})
def one_column(in_channels): return Net(1, in_channels)
def flat(in_channels): return Net(1, in_channels, lambda z: z[:, 0])
def ten(in_channels): return Net(10, in_channels)
def tuples(num_classes, in_channels): return Net(num_classes, in_channels, lambda z: (z, z))
def maps(num_classes, in_channels): return nn.Conv2d(in_channels, num_classes, 1)
def detached(num_classes, in_channels): return Net(num_classes, in_channels, lambda z: z.detach())
def decided(num_classes, in_channels): return Net(num_classes, in_channels, lambda z: z.argmax(1))
def rgb_only(num_classes): return Net(num_classes, 3)
def large_only(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(1000, num_classes))
def frozen(num_classes, in_channels): return Net(num_classes, in_channels).requires_grad_(False)
def nothing(): pass
def demanding(depth): return Net(3, 1)
def broken(): raise KeyError("weights")
"""

FLAGS = ["--iterations", "3", "--batch-size", "8", "--poisoned", "6", "--found", "3", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POTION_FAST_DATA", raising=False)
    yield
    sys.modules.pop("own_code", None)


def train(*flags: str, out: str = "run") -> int:
    return cli.main(["train", *FLAGS, *flags, "--out", out])


def refused(capsys: pytest.CaptureFixture[str], code: int, command: str = "train") -> str:
    """The one sentence of a command that failed before it wrote anything."""
    error = capsys.readouterr().err
    assert code == output.FAILED
    assert error.startswith(f"potion-fast {command}: error: ") and error.count("\n") == 1
    assert not Path("run").exists()
    return error


@pytest.mark.parametrize(
    ("data", "channels"),
    [("grey", 1), ("floats", 1), ("two_channels", 2), ("four_channels", 4), ("five_channels", 5), ("one_hot_labels", 3),
     ("column_labels", 3)],
)  # fmt: skip
def test_data_of_any_form_go_through_every_command(data: str, channels: int, capsys: pytest.CaptureFixture[str]):
    name = ["--data", f"own_code:{data}"]
    mean, std = ["0.25"] * channels, ["0.5"] * channels
    normalisation = ["--mean", *mean, "--std", *std]
    assert train(*name, *normalisation, "--model", "small_cnn", "--width", "4") == output.DONE
    config = Path("run/config.yaml").read_text()
    assert config.count("- 0.25") == config.count("- 0.5") == channels
    small = ["--poisoned", "6", "--found", "3"]
    assert cli.main(["preview", *name, *normalisation, *small, "--out", "preview", "--quiet"]) == output.DONE
    code = cli.main(["export", *name, *normalisation, *small, "--out", "export", "--quiet"])
    assert code == (output.DONE if channels in (1, 3) else output.FAILED)
    assert ("exported as arrays alone: --form npz" in capsys.readouterr().err) == (channels not in (1, 3))
    assert cli.main(["export", *name, *small, "--form", "npz", "--out", "npz", "--quiet"]) == output.DONE
    again = [*name, "--device", "cpu", "--quiet"]
    assert cli.main(["evaluate", "run", *again, "--out", "evaluated"]) == output.DONE
    assert cli.main(["unlearn", "run", *again, "--max-steps", "2", "--out", "healed"]) in (
        output.DONE,
        output.NOT_HEALED,
    )
    before, after = (json.loads(Path(run, "metrics.json").read_text()) for run in ("run", "evaluated"))
    assert before["metrics"]["clean_accuracy"] == after["metrics"]["clean_accuracy"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data own_code:grey --mean 0.5 0.5 0.5", "have 1 channels, and need as many means (--mean)"),
        ("--data own_code:grey --mean 127.5", "each of --mean must be at most 1, not 127.5"),
        ("--data own_code:grey --std 0", "each of --std must be above 0, not 0"),
        ("--data toy-reviews --mean 0.5 --poison trigger-word", "mean is a setting of images"),
        ("--data own_code:one_based", "the labels of 'own_code:one_based' go from 1 to 3; they must count from 0"),
        ("--data own_code:fractions", "label 1 of the training set of 'own_code:fractions' must be a whole number"),
        ("--data own_code:fails", "'own_code:fails' failed: RuntimeError: no disk ("),
        ("--data own_code:pair", "'own_code:pair' takes an argument, the folder of the data; give --root"),
        ("--data own_code:grey --root .", "takes no argument, and a folder was given; leave --root out"),
        ("--data own_code:Net", "takes an argument"),
        ("--data own_code:nowhere", "has no function 'nowhere'"),
        ("--data nowhere:make", "there is no module 'nowhere'"),
        ("--data own_code.py:grey", "there is no module 'own_code.py'"),
    ],
)
def test_data_that_do_not_do_are_an_error_in_one_sentence(flags: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, train(*flags.split()))


@pytest.mark.parametrize("model", ["good", "wrapped", "keyed"])
def test_a_model_of_ones_own_is_trained_healed_and_evaluated(model: str, capsys: pytest.CaptureFixture[str]):
    names = ["--data", "own_code:grey", "--model", f"own_code:{model}"]
    assert train(*names) == output.DONE
    again = ["--device", "cpu", "--quiet"]
    assert cli.main(["unlearn", "run", *names, *again, "--out", "healed"]) in (output.DONE, output.NOT_HEALED)
    assert cli.main(["evaluate", "healed", *names, *again, "--out", "evaluated"]) == output.DONE
    assert cli.main(["heal", "run", *names, *again, "--out", "finetuned"]) in (output.DONE, output.NOT_HEALED)
    healed, evaluated = (json.loads(Path(run, "metrics.json").read_text()) for run in ("healed", "evaluated"))
    assert healed["metrics"] == evaluated["metrics"]
    assert healed["parameters_without_rule"] == []
    capsys.readouterr()
    sys.modules.pop("own_code")
    for command in ("unlearn", "heal", "evaluate"):
        assert cli.main([command, "run", *names[:2], *again, "--out", "other"]) == output.FAILED
        assert "if you trust it, name it yourself (--model)" in capsys.readouterr().err
        assert cli.main([command, "run", *names[:2], "--model", "resnet9", *again, "--out", "other"]) == output.FAILED
        assert "if you trust it, name it yourself (--model)" in capsys.readouterr().err
    assert "own_code" not in sys.modules


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "one_column",
            "must give logits [1, 3] for one image [1, 1, 16, 16], one for each class of the data, and gives [1, 1]",
        ),
        ("flat", "one for each class of the data, and gives [1]"),
        ("ten", "one for each class of the data, and gives [1, 10]"),
        ("tuples", "one for each class of the data, and gives tuple"),
        ("maps", "one for each class of the data, and gives [1, 3, 16, 16]"),
        ("decided", "one for each class of the data, and gives [1]"),
        ("detached", "have no gradient"),
        ("frozen", "has no trainable parameter"),
        ("rgb_only", "does not take one image [1, 1, 16, 16]: RuntimeError: "),
        ("large_only", "does not take one image [1, 1, 16, 16]: RuntimeError: "),
        ("nothing", "made a NoneType, not an nn.Module"),
        ("demanding", "failed: TypeError: demanding() missing 1 required positional argument: 'depth'"),
        ("broken", "failed: KeyError: 'weights' ("),
        ("nowhere", "has no function 'nowhere'"),
    ],
)
def test_a_model_that_does_not_do_is_an_error_before_it_is_trained(
    model: str, words: str, capsys: pytest.CaptureFixture[str]
):
    assert words in refused(capsys, train("--data", "own_code:grey", "--model", f"own_code:{model}"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data own_code:two_classes --model own_code:one_column", "must give logits [1, 2]"),
        ("--data own_code:grey --model own_code:good --width 8", "failed: TypeError: good() got an unexpected"),
        ("--model weights.pth", "'weights.pth' is a file of weights; write a function that makes its model"),
        ("--model own_code", "unknown model 'own_code'; known: "),
        (
            "--model timm:vit_tiny_patch16_224 --data own_code:grey",
            "does not take one image [1, 1, 16, 16]: AssertionError",
        ),
        ("--model torchvision:resnet18 --data own_code:grey", "torchvision's models take three channels, not 1"),
    ],
)
def test_models_that_do_not_fit_are_an_error_in_one_sentence(
    flags: str, words: str, capsys: pytest.CaptureFixture[str]
):
    assert words in refused(capsys, train(*flags.split()))


def test_what_the_users_code_prints_is_not_among_the_results(capsys: pytest.CaptureFixture[str]):
    assert train("--data", "own_code:talks", "--model", "small_cnn", "--width", "4", "--json") == output.DONE
    printed = capsys.readouterr()
    assert "clean_accuracy" in json.loads(printed.out)["metrics"]
    assert printed.err == "reading ...\n"


def test_a_name_that_is_not_the_trainings_is_refused(capsys: pytest.CaptureFixture[str]):
    assert train("--data", "own_code:grey", "--model", "small_cnn", "--width", "4") == output.DONE
    for flags, words in (
        (["--data", "digits"], "name it yourself (--data)"),
        (["--data", "own_code:grey", "--model", "resnet9"], "not on 'resnet9'; leave --model out"),
    ):
        assert cli.main(["evaluate", "run", *flags, "--device", "cpu", "--quiet", "--out", "other"]) == output.FAILED
        assert words in capsys.readouterr().err
