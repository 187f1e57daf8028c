"""No file that is read causes code to run, writes go only where the user said, and no socket or process is opened."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import potion_fast
from campaign import FULL, note
from helpers.run_files import edit_config
from potion_fast.bench.data import read_indices
from potion_fast.bench.models import create_model, load_model, load_weights, save_model
from potion_fast.bench.runs import TrainConfig, UnlearnConfig, train_run, unlearn_run
from potion_fast.bench.runs.demo import demo
from potion_fast.bench.sweep import run_sweep
from potion_fast.cli.main import main
from potion_fast.errors import PotionError
from victims import TINY
from watch import ForbiddenError, watched

pytestmark = pytest.mark.usefixtures("one_thread")
PACKAGE = Path(potion_fast.__file__).parent
KERNELS = Path(importlib.util.find_spec("potion_fast.kernels").submodule_search_locations[0])  # type: ignore

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "ctypes",
    "socket",
    "ssl",
    "http",
    "urllib",
    "requests",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "subprocess",
    "pty",
    "huggingface_hub",
    "runpy",
}
ALLOWED_MODULES = {("user/checkpoint.py", "pickle")}  # the kind of error that torch.load raises
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
FORBIDDEN_NAMES = {
    "os.system",
    "os.popen",
    "os.execv",
    "os.fork",
    "os.spawnv",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "yaml.Loader",
    "yaml.UnsafeLoader",
    "yaml.FullLoader",
    "pickle.load",
    "pickle.loads",
    "torch.hub.load",
    "numpy.fromfile",
    "joblib.load",
    "time.time",
    "datetime.now",
    "date.today",
    "shutil.unpack_archive",
}
ARGUMENTS = {  # calls -> the argument that they must have
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for root in (PACKAGE, KERNELS):
        for path in sorted(root.rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def faults(name: str, tree: ast.Module) -> Iterator[str]:
    """The forbidden things that a source file does."""
    for node in ast.walk(tree):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            for module in {each.partition(".")[0] for each in names} & FORBIDDEN_MODULES:
                if (name, module) not in ALLOWED_MODULES:
                    yield f"{where} imports {module}"
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            given = {each.arg: each.value for each in node.keywords}
            if called in FORBIDDEN_CALLS:
                yield f"{where} calls {called}"
            if called in ARGUMENTS:
                argument, wanted = ARGUMENTS[called]
                value = given.get(argument)
                if not isinstance(value, ast.Constant) or value.value is not wanted:
                    yield f"{where} calls {called} without {argument}={wanted}"
            if called == "yaml.load":
                yield f"{where} calls yaml.load; parse_yaml reads safely and limits the expansion of aliases"
            for argument, value in given.items():
                trusted = isinstance(value, ast.Constant) and value.value is True
                if argument in ("trust_remote_code", "shell") and trusted:
                    yield f"{where} passes {argument}=True"
        elif isinstance(node, ast.Attribute) and dotted(node) in FORBIDDEN_NAMES:
            yield f"{where} uses {dotted(node)}"


def test_the_package_has_no_forbidden_code():
    found = [fault for name, tree in sources() for fault in faults(name, tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from urllib import request",
        "import os.path, socket",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "yaml.load(text, Loader)",
        "os.system('ls')",
        "x = yaml.FullLoader",
        "f(trust_remote_code=True)",
        "time.time()",
        "f = pickle.loads",
    ],
)
def test_forbidden_code_is_found(text: str):
    assert list(faults("x.py", ast.parse(text)))


def heal(folder: Path) -> None:
    """Poison a model, heal it, evaluate it."""
    from helpers.small_runs import TINY  # a plugin of other tests, which has to be imported by pytest first

    tiny = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    common = ["--quiet", "--out"]
    assert main(["train", *tiny, *common, f"{folder}/poisoned"]) == 0
    assert main(["train", *tiny, "--leave-out-poisoned", *common, f"{folder}/clean"]) == 0
    healing = ["unlearn", f"{folder}/poisoned", "--reference", f"{folder}/clean", "--device=cpu", "--curve"]
    assert main([*healing, *common, f"{folder}/healed"]) == 0
    assert main(["evaluate", f"{folder}/healed", "--device=cpu", *common, f"{folder}/again"]) == 0


def sweep(folder: Path) -> None:
    """And a sweep with its report."""
    train = {name: value for name, value in TINY.items() if name not in ("poisoned", "found", "patch_size")}
    content = {"train": {**train, "device": "cpu"}, "poisoned": [16], "found": [1.0], "methods": ["none", "ptn-xlf"]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
    assert main(["sweep", f"{folder}/sweep.yaml", "--quiet", "--out", f"{folder}/swept"]) == 0
    assert main(["report", f"{folder}/swept", "--samples=0"]) == 0


def test_the_toy_healing_writes_to_its_folder_and_opens_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import matplotlib.font_manager  # noqa: F401  # writes a cache of its own, the first time on a machine
    import torch._dynamo  # noqa: F401  # makes a folder of its own when it is imported, as by the first optimiser

    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with watched(tmp_path / "run"):
        if FULL:
            demo(tmp_path / "run" / "demo", say=lambda line: None)
        heal(tmp_path / "run")
        sweep(tmp_path / "run")
    assert not os.listdir(tmp_path / "elsewhere"), "something was written to the current folder"
    assert (tmp_path / "run" / "again" / "metrics.json").exists()
    assert (tmp_path / "run" / "swept" / "report" / "index.html").exists()
    note(f"{'the demo and ' * FULL}the toy healing: nothing written elsewhere, no socket, no process")


@pytest.mark.skipif(not FULL, reason="takes minutes under strace: `make faults` runs it")
def test_native_code_opens_no_socket_either(tmp_path: Path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    command = [strace, "-f", "-qq", "-e", "trace=socket,connect", "-o", str(tmp_path / "calls")]
    command += [sys.executable, "-m", "potion_fast.cli.main", "demo", "--quiet", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if "ptrace" in done.stderr and done.returncode == 1:
        pytest.skip(f"strace may not trace here: {done.stderr}")
    calls = (tmp_path / "calls").read_text()
    assert done.returncode in (0, 3), done.stderr
    assert "AF_INET" not in calls, calls[:2000]
    note("the demo under strace: no call of socket() for a network")


DOORS: dict[str, Callable[[Path], Any]] = {
    "write": lambda outside: (outside / "x").write_text("x"),
    "rename": lambda outside: os.rename(outside / "there", outside / "gone"),
    "remove": lambda outside: os.remove(outside / "there"),
    "mkdir": lambda outside: (outside / "new").mkdir(),
    "rmtree": shutil.rmtree,
    "socket": lambda outside: socket.socket(),
    "resolve": lambda outside: socket.getaddrinfo("localhost", 80),
    "url": lambda outside: urllib.request.urlopen("http://localhost:9"),
    "process": lambda outside: subprocess.run(["true"]),
    "shell": lambda outside: os.system("true"),
}


@pytest.mark.parametrize("name", DOORS)
def test_the_watch_notices_what_it_forbids(tmp_path: Path, name: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "there").touch()
    catching = suppress(BaseException)  # even where somebody catches everything
    with pytest.raises(ForbiddenError), watched(tmp_path / "run"), catching:
        DOORS[name](tmp_path / "outside")
    with watched(tmp_path / "run"):
        (tmp_path / "run" / "x").write_text("x")
        shutil.rmtree(tempfile.mkdtemp(dir=tmp_path / "run"))


class Bomb:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["pth", "pkl", "old", "zip", "npy", "npz", "safetensors"])
def test_a_pickle_is_never_run(tmp_path: Path, form: str):
    went_off, model = tmp_path / "went-off", create_model("small_cnn", 3, 1, width=2)
    path = tmp_path / f"x.{form if form in ('npy', 'npz', 'safetensors') else 'pth'}"
    if form in ("pth", "old"):
        content = {**model.state_dict(), "bomb": Bomb(went_off)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "pth")
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Bomb(went_off)))
            file.writestr("archive/version", "3")
    else:
        path.write_bytes(pickle.dumps(Bomb(went_off)))
    with pytest.raises(PotionError):
        load_weights(model, path)
    if form == "npy":
        import numpy as np

        np.save(path, np.array([Bomb(went_off)], dtype=object), allow_pickle=True)
    if form in ("npy", "npz"):
        with pytest.raises(PotionError):
            read_indices(path, 10) if form == "npy" else read_indices(path.rename(tmp_path / "y.npy"), 10)
    assert not went_off.exists()


def test_attributes_of_a_state_dict_are_ignored(tmp_path: Path):
    model = create_model("small_cnn", 3, 1, width=2)
    tensors = model.state_dict()
    tensors._metadata = 7  # type: ignore[attr-defined]
    torch.save(tensors, tmp_path / "x.pth")
    load_weights(model, tmp_path / "x.pth")


CANARY = "import pathlib\npathlib.Path('sang').touch()\ndef make(*a, **b): raise SystemExit\n"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder, on the import path: `sang` exists once it was imported."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "canary.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path / "cwd")
    yield tmp_path / "cwd" / "sang"
    sys.modules.pop("canary", None)


def test_a_factory_that_a_file_names_is_not_run(tmp_path: Path, canary: Path):
    model = create_model("small_cnn", 3, 1, width=2)
    metadata = {"architecture": "canary:make", "num_classes": 3, "in_channels": 1, "options": {}, "classes": ["a"]}
    save_model(tmp_path / "model.safetensors", model, metadata)
    with pytest.raises(PotionError, match="name it yourself if you trust it"):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(PotionError, match="name it yourself"):
        load_model(tmp_path / "model.safetensors", "other:make")
    train_run(TrainConfig(**TINY, device="cpu"), tmp_path / "run")
    edit_config(tmp_path / "run", data="canary:make")
    with pytest.raises(PotionError, match="code that would be imported and run"):
        unlearn_run(UnlearnConfig(run=str(tmp_path / "run"), device="cpu"), tmp_path / "healed")
    edit_config(tmp_path / "run", data="digits", model="canary:make")
    save_model(tmp_path / "run" / "model.safetensors", model, metadata)
    with pytest.raises(PotionError, match="name it yourself"):
        unlearn_run(UnlearnConfig(run=str(tmp_path / "run"), device="cpu"), tmp_path / "healed")
    assert not canary.exists() and not (tmp_path / "healed").exists()
    with pytest.raises(PotionError, match="'canary:make' failed: SystemExit"):
        load_model(tmp_path / "model.safetensors", "canary:make")
    assert canary.exists(), "what the user typed is run"


@pytest.mark.parametrize("name", ["../../out", "a/b", "/x", "..", ".hidden", "a\0b", "x" * 300, ""])
@pytest.mark.parametrize("axis", ["attacks", "data"])
def test_a_name_in_a_sweep_leads_to_no_other_folder(tmp_path: Path, axis: str, name: str):
    train = {key: value for key, value in TINY.items() if key not in ("poisoned", "found", "patch_size")}
    content: dict[str, Any] = {"train": train, "poisoned": [16], "found": [1.0], "methods": ["none"]}
    content[axis] = {name: {"poison": "badnet"} if axis == "attacks" else {"data": "digits"}}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sweep.yaml").write_text(yaml.safe_dump(content))
    with watched(tmp_path / "in"), pytest.raises(PotionError, match=f"{axis} holds"):
        run_sweep(tmp_path / "in" / "sweep.yaml", tmp_path / "in" / "out")
    assert os.listdir(tmp_path / "in") == ["sweep.yaml"]


def test_a_file_with_fewer_tensors_than_layers_is_refused(tmp_path: Path):
    """Otherwise a hundred bytes of metadata could occupy a machine, or take all its memory."""
    model = create_model("small_cnn", 3, 1, width=2)
    for name, options in (
        ("small_cnn", {"depth": 10**9}),
        ("small_cnn", {"width": 10**18}),
        ("resnet9", {"width": 2**40}),
        ("timm:vit_tiny_patch16_224", {"depth": 10**6}),
        ("timm:vit_tiny_patch16_224", {"num_classes": 3}),
        ("timm:resnet18", {"checkpoint_path": "/etc/passwd"}),
        ("torchvision:resnet18", {"weights": "IMAGENET1K_V1"}),
    ):
        metadata = {"architecture": name, "num_classes": 3, "in_channels": 1, "options": options}
        save_file(
            model.state_dict(), tmp_path / "x.safetensors", {"potion_fast.model": str(metadata).replace("'", '"')}
        )
        with watched(tmp_path), pytest.raises(PotionError):
            load_model(tmp_path / "x.safetensors")
