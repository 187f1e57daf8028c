"""Run folders: the configuration and the results of one run, each file written whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml

from ..errors import FileError
from ..utils.atomic_files import UNFINISHED, hold, release, remove_unfinished, written_whole
from .checkpoint import SUFFIXES
from .read_data import read_json, read_yaml

CONFIG = "config.yaml"
CONFIG_KEYS = {"command", "config", "versions"}
PREDICTIONS = ("predictions.csv", "manipulated.csv", "targets.csv", "statistics.csv")
POISON = ("poisoned.txt", "found.txt", "covers.txt")
# The files that each command writes in addition to config.yaml, removed when the folder is used again. metrics.json
# comes first: it says that the run was finished.
OUTPUTS = {
    "train": ("metrics.json", "training.csv", *PREDICTIONS, *POISON, "perturbations.safetensors", "model.safetensors"),
    "unlearn": (
        "metrics.json",
        "trace.csv",
        "curve.csv",
        *PREDICTIONS,
        "model.safetensors",
        "forget.safetensors",
        "retain.safetensors",
        "found.txt",
        "healing.png",
    ),
    "heal": (
        "metrics.json",
        "trace.csv",
        *PREDICTIONS,
        "classes.csv",
        "model.safetensors",
        "found.txt",
        "suspects.csv",
        "suspects.png",
        "suspects.txt",
        "healing.png",
        *(f"healed{suffix}" for suffix in SUFFIXES),
    ),
    "find": ("metrics.json", "suspects.csv", "suspects.png", "suspects.txt", "labels.csv"),
    "evaluate": ("metrics.json", *PREDICTIONS),
    "craft": (
        "metrics.json",
        "losses.csv",
        "losses.png",
        "perturbations.safetensors",
        "crafting.safetensors",
        *POISON,
    ),
    "preview": (*POISON, "preview.png", "preview.txt"),
    "export": (*POISON, "samples.csv", "perturbations.safetensors", "train.npz", "test.npz", "triggered.npz"),
    "demo": ("metrics.json", "healing.png", "suspects.png"),
    "hypothesis-shift": ("metrics.json", "shift.csv", "shift.png"),
    "hypothesis-cosine": ("metrics.json", "cosine.csv", "cosine.png"),
}
EXPORTED = ("train", "test", "triggered")  # folders of images
FOLDERS = {"export": EXPORTED, "heal": ("healed",)}  # that a command writes

_claims: dict[str, weakref.finalize[..., RunFolder]] = {}  # the folders that this process writes to


class RunFolder:
    """One run's folder.

    config.yaml holds the command, its resolved configuration, seed and versions; what else a command writes, `OUTPUTS`
    says:

    - metrics.json: each metric's value, unit, n, ideal value and denominator; warnings.
    - training.csv: every epoch of a training. trace.csv: every step of a search, or of a healing; curve.csv: test
      accuracies along a search.
    - predictions.csv: in the order of the test set; manipulated.csv: of training images with swapped labels;
      targets.csv: of the attacked test images; statistics.csv: of S_m with Gaussian noise.
    - losses.csv: every step of a crafting; losses.png: with poisoned images.
    - shift.csv and cosine.csv, and .png of both: of the two hypotheses.
    - model.safetensors; forget.safetensors and retain.safetensors: importances; perturbations.safetensors: what was
      added to each image of S_m.
    - poisoned.txt: indices of S_m; found.txt: of S_f; covers.txt: of samples that a poison changes without their label.
    - suspects.csv: the suspects of a healing, with the labels that they get; suspects.png: some of them. classes.csv:
      accuracies by class.
    - labels.csv: what a search for poison says of each label.
    - healing.png: the search, or the models side by side, and what became of triggered images. preview.png: images
      clean and poisoned.
    - healed.pth, .pt, ... or the folder healed: the healed weights of a user's own model, in the form of the given.
    - train, test, triggered: exported images, as folders or .npz; samples.csv: every training sample.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def check_free(cls, path: str | os.PathLike[str], overwrite: bool = False) -> RunFolder:
        """The folder that `create` would make, still untouched.

        Raises:
            FileError: something else is there.
        """
        run = cls(path)
        try:
            files = run.path.iterdir() if run.path.is_dir() else [run.path] if run.path.exists() else []
            taken = not all(UNFINISHED.fullmatch(path.name) for path in files)  # of a process that was killed
        except OSError as error:
            raise FileError(f"cannot make the run folder {run.path}: {error}") from error
        if taken:
            try:
                command = run._read()["command"]
            except FileError as error:
                raise FileError(
                    f"{run.path} is already there and not the folder of an earlier run; choose another folder"
                ) from error
            if not overwrite:
                unfinished = "metrics.json" in OUTPUTS.get(command, ()) and not (run / "metrics.json").exists()
                state = f"an {'unfinished' if unfinished else 'earlier'} run of {command!r}"
                raise FileError(
                    f"{run.path} is already there, {state}; choose another folder, or write over it (--overwrite, "
                    "overwrite=True)"
                )
        return run

    @classmethod
    def create(cls, path: str | os.PathLike[str], overwrite: bool = False) -> RunFolder:
        """A new folder, or with `overwrite` that of an earlier run, whose results are removed: none outlives its run.

        Files that no run writes are kept.

        Args:
            path: of the folder.
            overwrite: whether an earlier run there may go.

        Raises:
            FileError: as `check_free` and `claim` raise it.
        """
        run = cls.check_free(path, overwrite)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run.claim()
            cls.check_free(path, overwrite)  # nobody else was faster
            earlier = run._read()["command"] if (run / CONFIG).exists() else None
            folders = [name for name in FOLDERS.get(str(earlier), ()) if (run / name).is_dir()]
            remove_unfinished(run.path)
            for name in dict.fromkeys(name for names in OUTPUTS.values() for name in names):
                (run / name).unlink(missing_ok=True)
            for name in folders:
                shutil.rmtree(run / name)
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"cannot make the run folder {run.path}: {error}") from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            FileError: it is not one.
        """
        run = cls(path)
        try:
            there = (run / CONFIG).is_file()
        except OSError as error:  # a name too long, a folder that may not be read
            raise FileError(f"{run.path} cannot be read: {error}") from error
        if not there:
            raise FileError(f"{run.path} is not a run folder: it holds no {CONFIG}")
        return run

    def claim(self) -> None:
        """Keep other processes from writing here, until this object or the process is gone.

        Raises:
            FileError: another process writes here.
        """
        name = os.path.realpath(self.path)
        if name in _claims:
            _claims.pop(name)()  # an object of this process that is still there, as after an error in a notebook
        try:
            _claims[name] = weakref.finalize(self, release, hold(self.path))
        except BlockingIOError as error:
            raise FileError(
                f"another process is writing to {self.path}; wait until it ends, or choose another folder"
            ) from error

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_config(self, command: str, config: Mapping[str, Any]) -> None:
        """Write config.yaml: the command, its configuration and the versions it ran on."""
        content = {"command": command, "config": dict(config), "versions": versions(config.get("device", "cpu"))}
        self.write_text(CONFIG, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def read_config(self, *commands: str) -> tuple[str, dict[str, Any]]:
        """The command and configuration of config.yaml.

        Raises:
            FileError: another command's run or a broken file.
        """
        content = self._read()
        if content["command"] not in commands:
            wanted = " or ".join(repr(command) for command in commands)
            raise FileError(f"{self.path} is a run of {content['command']!r}; a run of {wanted} is needed")
        return content["command"], content["config"]

    def _read(self) -> dict[str, Any]:
        content = read_yaml(self / CONFIG)
        if not isinstance(content, dict) or set(content) != CONFIG_KEYS or not isinstance(content["config"], dict):
            raise FileError(
                f"{self / CONFIG} is not the configuration of a run: it needs {', '.join(sorted(CONFIG_KEYS))}"
            )
        return content

    def write_text(self, name: str, text: str) -> None:
        """Write UTF-8, with the text's own line ends; the bytes of a path that are no text become escapes."""
        with written_whole(self / name) as temporary:
            temporary.write_bytes(text.encode(errors="backslashreplace"))

    def write_json(self, name: str, content: Any) -> None:
        """Write strict JSON, see `strict`."""
        self.write_text(name, json.dumps(strict(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Read JSON.

        Raises:
            FileError: a file that is missing or broken.
        """
        return read_json(self / name)

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a header, then one line per row."""
        options: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
        with written_whole(self / name) as temporary, temporary.open("w", **options) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)

    def write_indices(self, name: str, indices: Iterable[int]) -> None:
        """Write a text file that `--forget` reads: one index per line, ascending."""
        self.write_text(name, "".join(f"{index}\n" for index in sorted(indices)))


def versions(device: str) -> dict[str, str]:
    """What a result depends on besides its configuration: versions, and the hardware behind the device it ran on."""
    from .. import __version__

    on_gpu = torch.device(device).type == "cuda"
    return {
        "potion_fast": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": torch.cuda.get_device_name(device) if on_gpu else _cpu(),
    }


def _cpu() -> str:
    """The processor's name, where the system tells it, and the threads that torch uses."""
    name = platform.machine() or "CPU"  # platform.processor() starts a process to find out
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def strict(content: Any) -> Any:
    """The same content as JSON can hold it: a number that is not finite becomes None."""
    if isinstance(content, Mapping):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [strict(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
