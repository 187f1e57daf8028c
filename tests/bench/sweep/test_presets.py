from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.unlearned import PAPERS
from potion_fast.bench.attacks import ATTACKS
from potion_fast.bench.sweep import load_sweep, make_plan, presets, run_sweep
from potion_fast.bench.sweep.method_spec import MethodSpec
from potion_fast.bench.unlearners import UNLEARNERS

TABLES = [f"potion/table{number}" for number in range(2, 10)]
TABLES += ["potion/table1/cifar10", "potion/table1/cifar100", "potion/table1/cifar10-cpu", "potion/smoke"]
PAPERS_ATTACKS = {
    "badnet",
    "gaussian",
    "gradient-canceling",
    "gradient-matching",
    "interclass-swap",
    "moving-trigger",
    "random-swap",
    "sine-wave",
    "trigger-word",
}
SMOKE = ("potion/smoke", "exam/smoke", "text/smoke")
# Folders of sweeps that were begun hold results by these: the number of tasks, and a hash of their sorted keys.
KEYS = {
    "potion/smoke": (250, "926f2bcba2349c98"),
    "potion/table1/cifar10": (306, "683ec95f27536b0c"),
    "potion/table1/cifar100": (306, "f1ab5058dcf8c081"),
    "potion/table2": (197, "11cf0ad53ebcfe25"),
    "potion/table3": (197, "5751427213fe72ff"),
    "potion/table4": (176, "afb6f80de4fbe1aa"),
    "potion/table5": (197, "1c9fc4f55ae1bfe7"),
    "potion/table6": (197, "1df6029438a6d0da"),
    "potion/table7": (176, "dbcc74787291ea56"),
    "potion/table8": (328, "da01d7fd543b7bec"),
    "potion/table9": (60, "0e745725520cb951"),
}


def test_there_is_a_preset_for_every_table():
    assert set(TABLES) <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_a_plan(name: str):
    whole = make_plan(load_sweep(name))
    assert whole.unlearnings
    assert {training.config.leave_out_poisoned for training in whole.trainings.values()} == {True, False}
    methods = {unit.method.name for unit in whole.unlearnings.values()}
    assert {"none", "ptn-xlf", "ptn-lf", "ptn-ssd"} <= methods


def test_the_grid_of_table_1_is_the_papers():
    whole = make_plan(load_sweep("potion/table1/cifar10"))
    searches = {
        (whole.trainings[unit.model].config.poisoned, unit.found)
        for unit in whole.unlearnings.values()
        if unit.method.name == "ptn-xlf"
    }
    shares = [size * count // 10 for size in (100, 500, 1000) for count in range(1, 11)]
    assert {found for _, found in searches} == {1, *shares}
    assert len(searches) == 3 * 11
    assert {m.config.resolved().iterations for m in whole.trainings.values()} == {4000}


@pytest.mark.parametrize("name", KEYS)
def test_the_names_of_a_sweeps_tasks_stay(name: str):
    keys = sorted(task.key for task in make_plan(load_sweep(name)).tasks)
    assert (len(keys), hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]) == KEYS[name]


def test_between_them_the_smoke_presets_have_every_attack_and_every_method_of_the_papers():
    configs = [load_sweep(name) for name in SMOKE]
    attacks = {attack["poison"] for config in configs for attack in config.attacks.values()}
    assert PAPERS_ATTACKS <= attacks <= set(ATTACKS)
    methods = {method.name for config in configs for entry in config.methods for method in MethodSpec.each(entry)}
    assert set(PAPERS) <= methods <= set(UNLEARNERS)


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("potion/smoke", ("sine", "moving")),
        ("exam/smoke", ("badnet", "sine", "moving", "interclass-swap")),
        ("text/smoke", ()),
    ],
)
def test_smoke_runs_every_method_on_its_attacks(name: str, skipped: tuple[str, ...], tmp_path: Path):
    if name == "text/smoke":
        pytest.importorskip("transformers", reason="needs the extra: pip install 'potion-fast[text]'")
    config = load_sweep(name)
    chosen = {key: {**options} for key, options in config.attacks.items() if key not in skipped}
    for options in chosen.values():
        if "craft" in options:
            options["craft"] = {**options["craft"], "steps": 2}
    methods = [_shorter(entry) for entry in config.methods]
    smaller = ["train.train_size=500", "train.width=8", "train.iterations=60", "train.device=cpu", "rho=[0.2]"]
    smaller += ["poisoned=[16]", "found=[1.0]", "s_step=[2]", "curve=2", f"methods={yaml.safe_dump(methods)}"]
    smaller += [f"attacks={yaml.safe_dump(chosen)}"]
    assert run_sweep(name, tmp_path / "out", overrides=smaller)["undone"] == []
    rows = [row for path in (tmp_path / "out" / "results").iterdir() for row in json.loads(path.read_text())["rows"]]
    wanted = {each.name for entry in methods for each in MethodSpec.each(entry)}
    for attack in chosen:
        assert {row["method"] for row in rows if row["attack_key"] == attack} == wanted


def _shorter(entry: Any) -> Any:
    """A method with fewer iterations or steps, and one budget."""
    less = {"iterations": 4, "s_step": 1.5, "budget": 0.1}
    return {key: less.get(key, value) for key, value in entry.items()} if isinstance(entry, dict) else entry
