"""Rivals and defences as methods of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from potion_fast.bench.runs import Scenario, TrainConfig
from potion_fast.bench.sweep import run_sweep
from potion_fast.bench.sweep.rows import read_rows
from potion_fast.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")

SWEEP: dict[str, Any] = {
    "train": {"iterations": 100, "device": "cpu"},
    "attacks": {"badnet": {"poison": "badnet", "patch_size": 3}},
    "poisoned": [64],
    "found": [0.25],
    "clean_samples": 100,
    "methods": [
        "none",
        {"method": "npo", "epochs": 2},
        {"method": "cuts", "epochs": 2},
        "sap",
        {"method": "rem", "iterations": 8},
        {"method": "cf-expanded", "iterations": 8},
        {"method": "ft", "epochs": 2},
        {"method": "ft-sam", "epochs": 2},
        {"method": "nad", "epochs": 2, "teacher_epochs": 1},
        {"method": "i-bau", "rounds": 1},
    ],
}


def swept(folder: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}))
    done = run_sweep(folder / "sweep.yaml", folder / "out")
    return done, {row.method: row for row in read_rows(folder / "out" / "results")}


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
def test_every_rival_has_its_row(tmp_path: Path):
    done, rows = swept(tmp_path)
    assert done["undone"] == []
    assert set(rows) == {method if isinstance(method, str) else method["method"] for method in SWEEP["methods"]}
    none = rows.pop("none").scores
    for name, row in rows.items():
        assert row.scores != none, name
        assert row.gradient_steps or name == "sap"


def test_a_defence_without_clean_samples_names_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done, rows = swept(tmp_path, clean_samples=0, methods=["none", "ft"])
    assert set(rows) == {"none"} and len(done["undone"]) == 1
    assert "ft trains on clean samples: Loaders(clean=...), or clean_samples of a sweep" in capsys.readouterr().err


def test_the_clean_samples_are_some_that_were_trained_on_without_poison_or_covers():
    scenario = Scenario.load(
        TrainConfig.from_dict({"poison": "wanet", "poisoned": 64, "found": 16, "augment": False, "device": "cpu"})
    )
    loader = scenario.clean_part(500, seed=1)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(labels) == 500
    clean = scenario.splits.dataset("train").batch(range(len(scenario.splits.train)))[0]
    kept = sorted(set(scenario.trained_on) - set(scenario.poisoned) - set(scenario.covers))
    known = {
        image.numpy().tobytes(): label
        for image, label in zip(clean[kept], scenario.splits.train.labels[kept], strict=True)
    }
    assert all(known[image.numpy().tobytes()] == label for image, label in zip(images, labels, strict=True))
    with pytest.raises(DataError, match="2000 clean samples are asked for, and 1246 of those trained on are clean"):
        scenario.clean_part(2000, seed=1)
