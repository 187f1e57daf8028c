"""A run folder: everything that one run read, was told and found, each file written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml

from .errors import FileError
from .files import written_whole

CONFIG = "config.yaml"


class RunFolder:
    """One run's folder.

    config.yaml          the command, its resolved configuration, seed and versions
    metrics.json         each metric's value, unit, n, ideal value and denominator; warnings
    trace.csv            every step of a search; training.csv: every epoch of a training
    predictions.csv      in the order of the test set
    model.safetensors    and forget.safetensors, retain.safetensors: importances
    *.txt, *.png         indices and pictures
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str], overwrite: bool = False) -> RunFolder:
        """A new folder, or with `overwrite` one that an earlier run left. Raises FileError where something else is there."""
        run = cls(path)
        try:
            taken = run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir()))
            if taken and not (overwrite and (run.path / CONFIG).is_file()):
                what = "is not the folder of an earlier run" if overwrite else "is already there"
                raise FileError(f"{run.path} {what}; choose another folder" + ("" if overwrite else " or overwrite it"))
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"cannot make the run folder {run.path}: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of an earlier run. Raises FileError where it is not one."""
        run = cls(path)
        if not (run.path / CONFIG).is_file():
            raise FileError(f"{run.path} is not a run folder: it holds no {CONFIG}")
        return run

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_config(self, command: str, config: Mapping[str, Any]) -> None:
        """config.yaml: the command, its configuration and the versions it ran on."""
        text = yaml.safe_dump(
            {"command": command, "config": dict(config), "versions": versions()}, sort_keys=False, allow_unicode=True
        )
        self.write_text(CONFIG, text)

    def read_config(self, command: str) -> dict[str, Any]:
        """The configuration in config.yaml. Raises FileError for another command's run or a broken file."""
        try:
            content = yaml.safe_load((self / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise FileError(f"{self / CONFIG} cannot be read: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise FileError(f"{self / CONFIG} is not the configuration of a run")
        if content.get("command") != command:
            raise FileError(f"{self.path} is a run of {content.get('command')!r}; a run of {command!r} is needed")
        return content["config"]

    def command(self) -> str:
        """The command that made this run. Raises FileError for a broken config.yaml."""
        try:
            return str(yaml.safe_load((self / CONFIG).read_text(encoding="utf-8"))["command"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise FileError(f"{self / CONFIG} cannot be read: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        with written_whole(self / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Strict JSON: a number that is not finite becomes null."""
        self.write_text(name, json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Raises FileError for a file that is missing or broken."""
        try:
            return json.loads((self / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(f"{self / name} cannot be read: {error}") from error

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """One line per row; the first row's keys are the header."""
        rows = list(rows)
        with written_whole(self / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def write_indices(self, name: str, indices: Iterable[int]) -> None:
        """A text file that `--forget` reads: one index per line, ascending."""
        self.write_text(name, "".join(f"{index}\n" for index in sorted(int(i) for i in indices)))


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration."""
    from . import __version__

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "potion_fast": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "platform": platform.platform(),
        "device": device,
    }


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and (content != content or content in (float("inf"), float("-inf"))):
        return None
    return content
