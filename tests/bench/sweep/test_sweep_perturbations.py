"""A sweep of attacks by perturbation, and of unlearners held to a budget."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from potion_fast.bench.attacks import Perturbations
from potion_fast.bench.metrics import poison_removed
from potion_fast.bench.runs.craft import CHECKPOINT
from potion_fast.bench.sweep import executor as work
from potion_fast.bench.sweep import load_sweep, make_plan, plan_sweep, run_sweep
from potion_fast.bench.sweep.config import SweepConfig
from potion_fast.bench.sweep.method_spec import MethodSpec
from potion_fast.bench.sweep.plan import SweepPlan, crafted_for, reference_of
from potion_fast.bench.sweep.rows import file_content, read_rows
from potion_fast.bench.sweep.sweep_folder import SweepFolder
from potion_fast.bench.sweep.trained_model import TrainedModel
from potion_fast.cli.main import main
from potion_fast.errors import FileError, PotionError
from potion_fast.user.run_folder import strict

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    "train": {"train_size": 500, "width": 8, "iterations": 60, "device": "cpu", "validation": 40},
    "attacks": {
        "targeted": {"poison": "gradient-matching", "epsilon": 64, "craft": {"restarts": 2, "steps": 60}},
        "indiscriminate": {"poison": "gradient-canceling", "craft": {"steps": 20}},
        "gaussian": {"poison": "gaussian"},
    },
    "poisoned": [16],
    "found": [0.5, 1.0],
    "methods": [
        "none",
        {"method": "ptn-xlf", "found": [1.0]},
        {"method": "gd", "budget": [0.1, 0.25], "found": [1.0]},
        {"method": "neggrad-plus", "budget": 0.1, "rates": [1e-3, 1e-2], "found": [1.0]},
        {"method": "retrain", "budget": 0.25, "found": [1.0]},
    ],
    "s_step": [2],
}
TARGETED = "digits_targeted_16_seed0"


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, sweep_file: Path) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert run_sweep(sweep_file, out)["undone"] == []
    return out


def planned(**changes: Any) -> SweepPlan:
    return make_plan(SweepConfig.from_dict({"name": "tiny", **TINY, **changes}))


def rows_of(out: Path, **wanted: Any) -> list[dict[str, Any]]:
    rows = [row for path in sorted((out / "results").iterdir()) for row in json.loads(path.read_text())["rows"]]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def timeless(out: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows_of(out)]


def test_rows_of_every_kind_say_what_its_attack_reached_and_what_is_left(swept: Path):
    assert {row["kind"] for row in rows_of(swept)} == {"targeted", "indiscriminate", "gaussian"}
    names = {
        "targeted": ("target_accuracy", "target_success"),
        "indiscriminate": ("clean_accuracy", "test_error"),
        "gaussian": ("base_accuracy", "gus"),
    }
    for row in rows_of(swept):
        attacked, reached = names[row["kind"]]
        assert row["score_names"] == [attacked, reached]
        for prefix in ("", "before_", "reference_"):
            assert {"clean_accuracy", attacked, reached} <= set(row[f"{prefix}scores"])
            assert "attack_success_rate" not in row[f"{prefix}scores"]
        unseen = 0.0 if row["kind"] == "gaussian" else row["reference_scores"][reached]
        removed = poison_removed(row["before_scores"][reached], row["scores"][reached], unseen)
        assert row["poison_removed"] == removed
        assert (row["poison_healed"] is None) == (row["kind"] != "targeted")
        if row["method"] == "none":
            assert row["scores"] == row["before_scores"]
            assert row["poison_removed"] in (0, None)
            assert row["learning_rate"] is None
    assert all(row["reference_scores"]["target_success"] == 0 for row in rows_of(swept, kind="targeted"))


def test_only_gaussian_rows_hold_statistics_and_they_are_those_of_the_scores(swept: Path):
    for row in rows_of(swept):
        statistics = row["statistics"]
        assert (statistics is None) == (row["kind"] != "gaussian")
        if statistics is not None:
            assert (len(statistics["before"]), len(statistics["after"]), len(statistics["fresh"])) == (16, 16, 100)
            for values, scores in ((statistics["before"], row["before_scores"]), (statistics["after"], row["scores"])):
                assert sum(values) / 16 == pytest.approx(scores["gus"], abs=1e-5)
            assert statistics["fresh"] == sorted(statistics["fresh"])
            assert abs(statistics["fresh"][0] + 2.576) < 0.5  # of N(0, 1)


def test_a_budget_is_kept_to_the_step_and_is_in_key_and_row(swept: Path):
    for method, budget, steps in (("gd", 0.1, 6), ("gd", 0.25, 15), ("neggrad-plus", 0.1, 6), ("retrain", 0.25, 15)):
        rows = rows_of(swept, method=method, budget=budget)
        assert [row["gradient_steps"] for row in rows] == [steps] * 3
        for row in rows:
            assert f"{method}-" in row["command"]
            assert f"budget={budget}" in row["command"]
            assert "budget" not in row["settings"]
    assert {row["learning_rate"] for row in rows_of(swept, method="neggrad-plus")} <= {1e-3, 1e-2}
    assert {row["budget"] for row in rows_of(swept, method="ptn-xlf")} == {None}


def test_a_budget_is_a_share_of_the_iterations_in_whole_steps():
    methods = MethodSpec.each({"method": "gd", "budget": [0.29, 0.1, 1]})
    assert [method.limits(100)["budget"] for method in methods] == [29, 10, 100]  # 0.29 * 100 is 28.999... in binary
    assert [method.limits(7)["budget"] for method in methods] == [2, 1, 7]
    assert methods[1].label == "gd-budget=0.1"
    assert MethodSpec.each("gd")[0].limits(100) == {}


def test_the_victim_is_trained_on_what_was_crafted_and_from_other_weights(swept: Path, sweep_file: Path):
    whole = make_plan(load_sweep(sweep_file))
    for attack in ("targeted", "indiscriminate"):
        key = f"digits_{attack}_16_seed0"
        crafted = Perturbations.load(swept / "crafted" / crafted_for(key) / "perturbations.safetensors")
        own = Perturbations.load(swept / "models" / key / "perturbations.safetensors")
        assert torch.equal(crafted.values, own.values)
        assert whole.trainings[key].config.training_seed == 1000
        assert whole.trainings[reference_of(key)].config.training_seed is None
    assert {whole.trainings[key].config.perturbations for key in whole.trainings} == {None}
    assert set(whole.craftings) == {
        crafted_for(f"digits_{attack}_16_seed0") for attack in ("targeted", "indiscriminate")
    }


def test_a_crafting_runs_between_the_clean_and_the_poisoned_training():
    whole = planned(seeds=[0, 1])
    keys = [task.key for task in whole.tasks]
    assert len(keys) == len(set(keys))
    for crafting in whole.craftings.values():
        victim = whole.trainings[crafting.model.removesuffix("_clean")]
        assert whole.needs(crafting) == [whole.trainings[reference_of(victim.key)]]
        assert whole.needs(victim) == [crafting]
        assert keys.index(crafting.model) < keys.index(crafting.key) < keys.index(victim.key)
    unit = next(unit for unit in whole.unlearnings.values() if unit.model == TARGETED)
    assert set(whole.part({unit.key: unit}).craftings) == {crafted_for(TARGETED)}


def test_found_samples_of_appended_poison_are_the_copies(swept: Path, sweep_file: Path):
    config = load_sweep(sweep_file)
    training = make_plan(config).trainings["digits_indiscriminate_16_seed0"]
    subject = TrainedModel.load(config, SweepFolder(swept), training)
    assert subject.scenario.poisoned == list(range(500, 516))
    assert set(subject.found(8)) < set(subject.scenario.poisoned)
    assert len(subject.scenario.trained_on) == 500 - 40 + 16


def test_a_moved_sweep_resumes_in_its_new_folder(swept: Path, sweep_file: Path, tmp_path: Path):
    moved = Path(shutil.copytree(swept, tmp_path / "moved"))
    shutil.rmtree(moved / "models" / TARGETED)
    grown = [*TINY["methods"], {"method": "gd", "budget": 0.5, "found": [1.0]}]
    hidden = swept.rename(swept.with_name("hidden"))
    try:
        assert run_sweep(sweep_file, moved, overrides=[f"methods={json.dumps(grown)}"])["undone"] == []
    finally:
        hidden.rename(swept)
    assert [row["gradient_steps"] for row in rows_of(moved, budget=0.5)] == [30] * 3
    before = rows_of(swept, attack_key="targeted", method="none")[0]["before_scores"]
    assert rows_of(moved, attack_key="targeted", budget=0.5)[0]["before_scores"] == before


def test_a_crafting_that_is_killed_resumes_and_gives_the_same(
    swept: Path, sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, only = tmp_path / "killed", f"{TARGETED}_found16_none"
    command = [
        sys.executable,
        "-m",
        "potion_fast.cli.main",
        "sweep",
        str(sweep_file),
        "--out",
        str(out),
        "--only",
        only,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    unfinished = out / "crafted" / f".{crafted_for(TARGETED)}.part"
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and process.poll() is None and not checkpoints(unfinished):
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "crafted" / crafted_for(TARGETED)).exists()
    (unfinished / ".half.written.part").touch()
    there: list[bool] = []
    craft_run = work.craft_run

    def watched(config: Any, place: Path, **options: Any) -> Any:
        there.append(checkpoints(place))
        return craft_run(config, place, **options)

    monkeypatch.setattr(work, "craft_run", watched)
    assert run_sweep(sweep_file, out, only=only)["undone"] == []
    assert there == [True]
    assert not list(out.rglob(".*part"))
    crafted = [
        Perturbations.load(each / "crafted" / crafted_for(TARGETED) / "perturbations.safetensors").values
        for each in (swept, out)
    ]
    assert torch.equal(*crafted)
    assert timeless(out) == [row for row in timeless(swept) if only in row["command"]]


def checkpoints(folder: Path) -> bool:
    """Whether a crafting that is under way has left something to resume from."""
    return (folder / CHECKPOINT).exists()


def test_what_needs_a_crafting_that_failed_is_left_and_the_rest_is_done(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def failing(*_: Any, **__: Any) -> None:
        raise PotionError("nothing can be crafted")

    monkeypatch.setattr(work, "craft_run", failing)
    overrides = ["methods=[none]", "found=[1.0]", "train.iterations=2"]
    undone = run_sweep(sweep_file, tmp_path / "out", overrides=overrides)["undone"]
    wanted = [f"digits_{attack}_16_seed0" for attack in ("targeted", "indiscriminate")]
    assert set(undone) == {name for key in wanted for name in (crafted_for(key), key, f"{key}_found16_none")}
    assert capsys.readouterr().err.count("nothing can be crafted") == 2
    assert len(rows_of(tmp_path / "out", kind="gaussian")) == 1


def test_a_dry_run_counts_craftings_and_knows_how_long_they_took(
    swept: Path, sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["sweep", str(sweep_file), "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    assert "6 trainings, 2 craftings, 3 passes, 21 unlearnings, 21 rows" in capsys.readouterr().out
    assert plan_sweep(sweep_file, swept)["left"]["craftings"] == 0
    content = plan_sweep(sweep_file, swept, overrides=["seeds=[0, 1]"])
    assert content["left"]["craftings"] == 2
    assert content["not_measured"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": {"x": {"poison": "gradient-matching"}}}, r"attacks.x: .* needs a mapping `craft`"),
        ({"attacks": {"x": {"poison": "gradient-matching", "craft": 3}}}, "attacks.x: craft must be a mapping"),
        ({"attacks": {"x": {"poison": "gradient-matching", "craft": {"run": "r"}}}}, "without `run`"),
        ({"attacks": {"x": {"poison": "gradient-matching", "craft": {"colour": 1}}}}, "unknown key 'colour'"),
        ({"attacks": {"x": {"poison": "gradient-matching", "craft": {"budget": 1.0}}}}, "takes no budget"),
        ({"attacks": {"x": {"poison": "badnet", "craft": {}}}}, "'badnet' is not crafted"),
        ({"attacks": {"x": {"poison": "gradient-matching", "craft": {}, "perturbations": "f"}}}, "in place of"),
        ({"methods": [{"method": "gd", "budget": 1.5}]}, "budget holds shares"),
        ({"methods": [{"method": "gd", "budget": True}]}, "budget holds shares"),
        ({"methods": [{"method": "gd", "budget": []}]}, "budget must be a list"),
        ({"methods": [{"method": "ptn-xlf", "budget": 0.1}]}, "no setting budget"),
        ({"methods": [{"method": "neggrad-plus", "budget": 0.01}]}, "budget must be at least 2"),
    ],
)
def test_a_wrong_attack_or_budget_is_refused_by_name(changes: dict[str, Any], message: str):
    with pytest.raises(PotionError, match=message):
        planned(**changes)


def test_reports_read_the_rows_and_a_gus_has_no_bounds_as_a_rate_has(swept: Path, tmp_path: Path):
    rows = read_rows(swept / "results")
    assert len(rows) == len(rows_of(swept))
    gaussian = next(row for row in rows if row.kind == "gaussian")
    assert gaussian.poison_healed is None
    content = {"format": 2, "rows": rows_of(swept, kind="gaussian", method="none")[:1]}
    content["rows"][0]["scores"]["gus"] = 7.5
    (tmp_path / "row.json").write_text(json.dumps(content))
    assert read_rows(tmp_path)[0].attack_score() == 7.5
    content["rows"][0]["scores"]["attack_success_rate"] = 7.5
    (tmp_path / "row.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match="attack_success_rate 7.5, which is out of range"):
        read_rows(tmp_path)


def test_a_row_that_is_read_is_the_row_that_was_written(swept: Path):
    rows = read_rows(swept / "results")
    for path in sorted((swept / "results").iterdir()):
        content = json.loads(path.read_text())
        again = strict(file_content([row for row in rows if row.file == path.name], content["measured"]["seconds"]))
        for row in (*content["rows"], *again["rows"]):
            row["before_found_accuracy"] = None  # filled in from the untouched model's row
        assert again == content
