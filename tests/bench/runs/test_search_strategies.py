from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.run_files import rows, stored
from potion_fast import Importance
from potion_fast.bench.runs import UnlearnConfig, unlearn_run
from potion_fast.errors import SearchError

pytest_plugins = ["helpers.small_runs"]


@pytest.mark.parametrize("strategy", ["bisect", "minimal"])
def test_a_run_with_another_strategy_writes_all_its_files(tmp_path: Path, poisoned: Path, strategy: str):
    config = UnlearnConfig(run=str(poisoned), strategy=strategy, device="cpu", curve=True)
    content = unlearn_run(config, tmp_path / "out")
    search = json.loads((tmp_path / "out" / "metrics.json").read_text())["search"]
    assert search == content["search"] and search["strategy"] == stored(tmp_path / "out")["strategy"] == strategy
    trace = rows(tmp_path / "out" / "trace.csv")
    assert len(trace) == search["evaluations"] - 1
    kept = search["kept_step"]
    curve = rows(tmp_path / "out" / "curve.csv")
    assert str(kept["dampened"]) in [row["dampened"] for row in curve]
    if strategy == "minimal":
        assert (kept["s"], kept["percentile"]) == (None, None)
        assert {row["s"] for row in (*trace, *curve)} == {"nan"}
        assert (stored(tmp_path / "out")["s_step"], stored(tmp_path / "out")["b_start"]) == (None, None)
    else:
        assert (stored(tmp_path / "out")["s_step"], stored(tmp_path / "out")["b_start"]) == (1.1, 1 / 25)


@pytest.mark.parametrize("max_damage", [0.0, 100.0])
def test_a_run_may_limit_the_damage(tmp_path: Path, poisoned: Path, max_damage: float):
    content = unlearn_run(UnlearnConfig(run=str(poisoned), max_damage=max_damage, device="cpu"), tmp_path / "out")
    clean, kept = content["search"]["clean_accuracy"], content["search"]["kept_step"]
    assert clean["data"] == "the clean data" and 100 * (clean["before"] - clean["after"]) <= max_damage
    trace = rows(tmp_path / "out" / "trace.csv")
    assert any(row["clean_accuracy"] for row in trace) and not all(row["clean_accuracy"] for row in trace)
    assert kept is None or kept["clean_accuracy"] == clean["after"]


def test_a_run_may_read_a_part_of_the_training_data(tmp_path: Path, poisoned: Path):
    content = unlearn_run(UnlearnConfig(run=str(poisoned), samples=100, device="cpu"), tmp_path / "out")
    retain = Importance.load(tmp_path / "out" / "retain.safetensors")
    assert content["search"]["training_samples"] == {"read": retain.samples, "of": retain.total}
    assert 100 <= retain.samples < 200 < retain.total
    assert stored(tmp_path / "out")["samples"] == 100


def test_a_run_refuses_what_its_strategy_does_not_use(tmp_path: Path, poisoned: Path):
    with pytest.raises(SearchError, match="s_step"):
        unlearn_run(UnlearnConfig(run=str(poisoned), strategy="minimal", s_step=1.2), tmp_path / "out")
    with pytest.raises(SearchError, match="unknown strategy"):
        unlearn_run(UnlearnConfig(run=str(poisoned), strategy="x"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
