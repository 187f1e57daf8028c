"""What the command line imports, and what it says of a package that is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from potion_fast.cli import main as cli
from potion_fast.cli import output

LOADED = """
import json, sys
from potion_fast.cli.main import main
try:
    main({arguments})
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from potion_fast.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a process has imported when it has parsed these arguments."""
    code = LOADED.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], []])
def test_version_and_help_load_neither_torch_nor_the_bench(arguments: list[str]):
    modules = loaded_by(*arguments)
    assert "potion_fast.cli.main" in modules
    heavy = ("torch", "numpy", "matplotlib", "pydantic", "potion_fast.bench", "potion_fast.user")
    assert not {name for name in modules if f"{name}.".startswith(tuple(f"{each}." for each in heavy))}


def test_a_command_does_not_load_those_of_others():
    modules = loaded_by("train", "--help")
    assert "potion_fast.bench.configs.train" in modules
    assert not modules & {
        "matplotlib",
        "torchvision",
        "potion_fast.bench.report",
        "potion_fast.bench.sweep",
        "potion_fast.cli.sweeps",
    }
    assert not {name for name in loaded_by("doctor", "--help") if name.startswith("potion_fast.bench")}


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where a module is not installed."""
    return subprocess.run([sys.executable, "-c", WITHOUT, module, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "module", "package"),
    [
        (["train", "--data", "digits", "--out", "o"], "matplotlib", "matplotlib"),
        (["unlearn", "a", "--out", "o"], "pydantic", "pydantic"),
        (["sweep", "potion/smoke", "--out", "o"], "yaml", "PyYAML"),
        (["preview", "--out", "o"], "PIL", "Pillow"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    arguments: list[str], module: str, package: str, tmp_path: Path
):
    done = without(module, *(str(tmp_path / "out") if argument == "o" else argument for argument in arguments))
    assert (done.returncode, done.stdout) == (output.FAILED, "")
    assert done.stderr == (
        f"potion-fast {arguments[0]}: error: this command needs {package}; "
        "install it with: pip install 'potion-fast[bench]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_language_models_name_the_extra_that_they_need(tmp_path: Path):
    train = ["train", "--data", "toy-reviews", "--poison", "gaussian", "--device", "cpu"]
    done = without("transformers", *train, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (output.FAILED, "")
    assert done.stderr.startswith("potion-fast train: error: ") and len(done.stderr.splitlines()) == 1
    assert "pip install 'potion-fast[text]'" in done.stderr


def test_a_package_that_no_extra_brings_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("potion_fast.cli.doctor.doctor", lambda: import_module("own_code"))
    with pytest.raises(ModuleNotFoundError, match="own_code"):
        cli.main(["doctor"])
