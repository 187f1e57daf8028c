from __future__ import annotations

import json
from pathlib import Path

import pytest

from potion_fast.experiments.sweep import load_sweep, plan, presets, run_sweep
from potion_fast.poisons import POISONS
from potion_fast.unlearners import UNLEARNERS

TABLES = [f"potion/table{number}" for number in range(2, 10)]
TABLES += ["potion/table1/cifar10", "potion/table1/cifar100", "potion/table1/cifar10-cpu", "potion/smoke"]


def test_there_is_a_preset_for_every_table():
    assert set(TABLES) <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_a_plan(name: str):
    whole = plan(load_sweep(name))
    assert whole.unlearnings
    assert {training.config.leave_out_poisoned for training in whole.trainings.values()} == {True, False}
    methods = {unit.method.name for unit in whole.unlearnings.values()}
    assert {"none", "ptn-xlf", "ptn-lf", "ptn-ssd"} <= methods


def test_the_grid_of_table_1_is_the_papers():
    whole = plan(load_sweep("potion/table1/cifar10"))
    searches = {
        (whole.trainings[unit.model].config.poisoned, unit.found)
        for unit in whole.unlearnings.values()
        if unit.method.name == "ptn-xlf"
    }
    shares = [size * count // 10 for size in (100, 500, 1000) for count in range(1, 11)]
    assert {found for _, found in searches} == {1, *shares}
    assert len(searches) == 3 * 11
    assert {m.config.resolved().iterations for m in whole.trainings.values()} == {4000}


def test_smoke_runs_every_attack_and_every_method(tmp_path: Path):
    config = load_sweep("potion/smoke")
    methods = [{**method, "iterations": 4} if "iterations" in method else method for method in config.methods]
    smaller = ["train.train_size=500", "train.width=8", "train.iterations=60", "train.device=cpu", "poisoned=[20]"]
    smaller += ["found=[1.0]", "rho=[0.2]", "s_step=[2]", "curve=2", f"methods={json.dumps(methods)}"]
    assert run_sweep("potion/smoke", tmp_path / "out", overrides=smaller)["undone"] == []
    rows = [row for path in (tmp_path / "out" / "results").iterdir() for row in json.loads(path.read_text())["rows"]]
    assert {attack["poison"] for attack in config.attacks.values()} == set(POISONS)
    for attack in config.attacks:
        assert {row["method"] for row in rows if row["attack"] == attack} == set(UNLEARNERS)
