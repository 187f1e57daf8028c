"""Reading and editing the files of a run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from potion_fast.bench.runs import Scenario, TrainConfig


def metrics(path: Path) -> dict[str, float]:
    return {name: m["value"] for name, m in json.loads((path / "metrics.json").read_text())["metrics"].items()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def stored(path: Path) -> dict[str, Any]:
    return yaml.safe_load((path / "config.yaml").read_text())["config"]


def edit_config(path: Path, **changes: Any) -> None:
    content = yaml.safe_load((path / "config.yaml").read_text())
    content["config"].update(changes)
    (path / "config.yaml").write_text(yaml.safe_dump(content))


def scenario_of(path: Path) -> Scenario:
    return Scenario.load(TrainConfig.from_dict(stored(path)))
