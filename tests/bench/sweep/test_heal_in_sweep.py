"""`heal` as a method of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from potion_fast.bench.report.methods import label
from potion_fast.bench.runs import Scenario, TrainConfig
from potion_fast.bench.sweep import run_sweep
from potion_fast.bench.sweep.rows import read_rows
from potion_fast.bench.sweep.run_finetuning import training_index

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_sweep_heals_and_its_row_counts_the_cost(tmp_path: Path):
    sweep: dict[str, Any] = {
        "train": {"iterations": 200, "device": "cpu", "validation": 100},
        "attacks": {"badnet": {"poison": "badnet", "patch_size": 3}},
        "poisoned": [64],
        "found": [0.25],
        "methods": ["none", "heal"],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert run_sweep(tmp_path / "sweep.yaml", tmp_path / "out")["undone"] == []
    rows = {row.method: row for row in read_rows(tmp_path / "out" / "results")}
    none, healed = rows["none"], rows["heal"]
    assert healed.poison_healed is not None and none.poison_healed is not None
    assert healed.poison_healed > none.poison_healed + 40
    assert healed.objective is None and healed.gradient_steps is not None and 0 < healed.gradient_steps < 200
    assert healed.seconds["search"] > 0 and healed.seconds["training"] > 0
    assert label("heal") == "Heal"
    assert "heal" in json.dumps(healed.command)


def test_it_reads_the_samples_that_were_trained_on_and_holds_the_validation_set_out():
    scenario = Scenario.load(TrainConfig(poisoned=64, found=16, validation=100, augment=True, device="cpu"))
    index = training_index(scenario, scenario.found)
    n = len(scenario.trained_on)
    assert len(index.train_set) == len(index.plain_set) == n and len(index.held_out) == 100
    assert np.array(scenario.trained_on)[index.found].tolist() == scenario.found
    labels = torch.stack([index.plain_set[position][1] for position in index.found])
    assert (labels == 0).all()  # the poison's
    clean = scenario.splits.train.labels[scenario.validation]
    assert [int(index.held_out[place][1]) for place in range(100)] == clean.tolist()
    assert training_index(Scenario.load(TrainConfig(poisoned=64, found=16, device="cpu")), [0]).held_out is None
