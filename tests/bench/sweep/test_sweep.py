from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import potion_fast as pf
from potion_fast.bench.data import make_loader
from potion_fast.bench.runs.diagnostics import notes_of_healing
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.bench.sweep import load_sweep, make_plan, plan_sweep, run_sweep
from potion_fast.bench.sweep.early_stops import MAX_STEPS, spread, steps_for, stop_at
from potion_fast.bench.sweep.plan import SweepPlan, reference_of
from potion_fast.bench.sweep.retain import arranged, shared_retain
from potion_fast.bench.sweep.sweep_folder import SweepFolder
from potion_fast.bench.sweep.trained_model import TrainedModel
from potion_fast.cli.main import main
from potion_fast.errors import FileError, PotionError
from potion_fast.importances import importance
from potion_fast.search import OUT_OF_STEPS, SATURATED, THRESHOLD_PASSED, Step, ptn_search

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    "train": {"train_size": 500, "width": 4, "iterations": 60, "device": "cpu", "validation": 40},
    "attacks": {"badnet": {"poison": "badnet", "patch_size": 3}},
    "poisoned": [32],
    "found": [1, 0.5, 1.0],
    "methods": [
        "none",
        "ptn-xlf",
        {"method": "ptn-ssd", "found": [0.5]},
        {"method": "ptn-xlf", "strategy": "bisect", "found": [0.5]},
        {"method": "ptn-lf", "strategy": "minimal", "found": [0.5]},
        {"method": "ssd-goel", "found": [0.5]},
        {"method": "assd", "found": [1.0]},
        {"method": "eu", "iterations": 10, "found": [1.0]},
        {"method": "cf", "iterations": 3, "found": [1.0]},
    ],
    "rho": [0, 0.2, 0.75],
    "s_step": [1.1, 2],
    "curve": 3,
}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert run_sweep(tiny_file, out)["undone"] == []
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "results").iterdir()) for row in json.loads(path.read_text())["rows"]]


def timeless(out: Path) -> dict[str, Any]:
    """All rows by file, without what depends on the clock."""
    content = {path.name: json.loads(path.read_text())["rows"] for path in sorted((out / "results").iterdir())}
    for rows in content.values():
        for row in rows:
            del row["seconds"]
    return content


def planned(**changes: Any) -> SweepPlan:
    return make_plan(load_from({**TINY, **changes}))


def load_from(content: dict[str, Any]) -> Any:
    from potion_fast.bench.sweep.config import SweepConfig

    return SweepConfig.from_dict({"name": "tiny", **content})


def subject_of(out: Path, tiny_file: Path) -> TrainedModel:
    config = load_sweep(tiny_file)
    training = next(iter(make_plan(config).trainings.values()))
    return TrainedModel.load(config, SweepFolder(out), training)


def test_every_method_has_its_rows_and_each_row_what_reports_need(swept: Path):
    rows = rows_of(swept)
    by_method: dict[str, int] = {}
    for row in rows:
        by_method[row["method"]] = by_method.get(row["method"], 0) + 1
        assert row["preset"] == "tiny.yaml"
        assert (row["attack"], row["data"], row["model"], row["width"]) == ("badnet", "digits", "small_cnn", 4)
        assert (row["attack_key"], row["kind"]) == ("badnet", "trigger")
        scores, before, reference = row["scores"], row["before_scores"], row["reference_scores"]
        assert set(scores) == {"clean_accuracy", "triggered_accuracy", "attack_success_rate", "robust_accuracy"}
        assert 0 <= scores["clean_accuracy"] <= 1
        assert row["poison_healed"] == 100 * scores["triggered_accuracy"] / reference["triggered_accuracy"]
        damage = 100 * (scores["clean_accuracy"] - before["clean_accuracy"])
        assert row["model_damage"] == pytest.approx(damage)
        phases = ("training", "forget", "retain", "search")
        assert row["seconds"]["total"] == pytest.approx(sum(row["seconds"][phase] for phase in phases))
        assert "--only" in row["command"]
    assert by_method == {
        "none": 3,
        "ptn-xlf": 3 * 6 + 6,  # ρ x s_step each; bisect
        "ptn-ssd": 6,
        "ptn-lf": 3,  # no s_step
        "ssd-goel": 1,
        "assd": 1,
        "eu": 1,
        "cf": 1,
    }
    none = [row for row in rows if row["method"] == "none"]
    assert all(row["scores"]["clean_accuracy"] == row["before_scores"]["clean_accuracy"] for row in none)
    assert all(row["gradient_steps"] == 10 for row in rows if row["method"] == "eu")
    assert all(row["seconds"]["retain"] > 0 for row in rows if row["objective"])


def test_only_rows_at_the_default_rho_and_step_hold_the_trace(swept: Path):
    for row in rows_of(swept):
        default = row["rho"] == 0.2 and row["s_step"] in (1.1, None) and row["method"].startswith("ptn")
        assert (row["trace"] is not None) == default
        if row["trace"] and row["strategy"] == "sequential":
            assert [step[0] for step in row["trace"]] == list(range(1, len(row["trace"]) + 1))
            tested = [step for step in row["trace"] if step[6] is not None]
            assert 1 <= len(tested) <= 3
            stop = next(step for step in row["trace"] if step[0] == row["steps"])
            assert (stop[3], stop[5]) == (row["alpha"], row["dampened"])


def test_what_is_read_off_one_trace_is_what_a_search_of_its_own_gives(swept: Path, tiny_file: Path):
    subject = subject_of(swept, tiny_file)
    found = subject.found(16)
    loader = subject.forget_loader(found, augment=False)
    forget = importance(subject.model, loader, "xlf", group_size=16)
    retain = shared_retain(
        subject.model,
        subject.scenario.train_set(augment=False),
        subject.scenario.trained_on,
        {16: found},
        ("xlf",),
        16,
        batch_size=64,
        seed=0,
    )[16][0][0]
    rows = {(row["rho"], row["s_step"]): row for row in rows_of(swept) if _is(row, "ptn-xlf", 16, "sequential")}
    assert len(rows) == 6
    for (rho, s_step), row in rows.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            result = ptn_search(
                subject.model, forget, retain, loader, rho=rho, s_step=s_step, max_steps=steps_for(s_step)
            )
        after = subject.evaluate(result.model, edited=True)
        assert (row["reason"], row["steps"]) == (result.reason, len(result.trace))
        assert row["alpha"] == pytest.approx(result.alpha)
        assert row["dampened"] == (result.kept.dampened if result.kept else None)
        assert row["scores"] == after.scores


def _is(row: dict[str, Any], method: str, found: int, strategy: str) -> bool:
    return (row["method"], row["found"], row["strategy"]) == (method, found, strategy)


@pytest.mark.parametrize("m", [1, 8])
def test_shared_passes_give_what_passes_of_their_own_give(m: int, swept: Path, tiny_file: Path):
    subject = subject_of(swept, tiny_file)
    founds = {count: subject.found(count) for count in (1, 5, 32)}
    dataset, trained_on = subject.scenario.train_set(augment=False), subject.scenario.trained_on
    shared = shared_retain(subject.model, dataset, trained_on, founds, ("xlf", "lf"), m, batch_size=64, seed=3)
    order = np.random.default_rng(3).permutation(trained_on).tolist()
    for count, found in founds.items():
        left = arranged(order, found)
        assert sorted(left) == sorted(set(trained_on) - set(found))
        loader = make_loader(dataset, left, batch_size=64, shuffle=False, seed=0)
        own = importance(subject.model, loader, ["xlf", "lf"], group_size=m)
        for one, other in zip(shared[count][0], own, strict=True):
            assert (one.samples, one.terms) == (other.samples, other.terms)
            torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-6 * float(other.sums.max()))


def test_a_sweep_killed_and_started_again_ends_with_the_same_numbers(swept: Path, tiny_file: Path, tmp_path: Path):
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "potion_fast.cli.main",
        "sweep",
        str(tiny_file),
        "--out",
        str(out),
        "--processes",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and process.poll() is None:
            if len(list((out / "results").glob("*.json"))) >= 2:
                break
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {path.name: path.read_bytes() for path in (out / "results").glob("*.json")}
    assert 2 <= len(before) < len(make_plan(load_sweep(tiny_file)).unlearnings)
    assert run_sweep(tiny_file, out)["undone"] == []
    assert timeless(out) == timeless(swept)
    assert all((out / "results" / name).read_bytes() == content for name, content in before.items())
    assert not list(out.rglob(".*part"))


def test_what_is_done_is_not_done_again_and_importances_that_nobody_needs_are_gone(swept: Path, tiny_file: Path):
    times = {path: path.stat().st_mtime_ns for path in swept.rglob("*.json")}
    assert run_sweep(tiny_file, swept)["undone"] == []
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("*.json")} == times
    assert not list(swept.rglob("found*.safetensors"))


def test_a_sweep_grows_but_does_not_change(swept: Path, tiny_file: Path, tmp_path: Path):
    content = plan_sweep(tiny_file, swept, overrides=["seeds=[0, 1]"])
    assert content["left"]["trainings"] == 2
    assert content["left"]["unlearnings"] * 2 == content["all"]["unlearnings"]
    with pytest.raises(FileError, match="holds a sweep with curve 3, not 5"):
        run_sweep(tiny_file, swept, overrides=["curve=5"])
    (tmp_path / "foreign.txt").touch()
    with pytest.raises(FileError, match="not the folder of a sweep"):
        run_sweep(tiny_file, tmp_path)


def test_a_dry_run_counts_and_knows_only_what_was_measured(
    swept: Path, tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "new"
    assert main(["sweep", str(tiny_file), "--out", str(out), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 trainings, 5 passes, 13 unlearnings, 40 rows" in text
    assert "not measured yet" in text
    assert not out.exists()
    content = plan_sweep(tiny_file, swept)
    assert content["left"] == {"trainings": 0, "craftings": 0, "passes": 0, "unlearnings": 0, "rows": 0}
    assert content["seconds"] == 0
    assert content["all"]["rows"] == len(rows_of(swept))
    content = plan_sweep(tiny_file, swept, overrides=["seeds=[0, 1]", "methods=[none, ptn-lf, ptn-xlf]"])
    assert content["seconds"] > 0
    assert content["not_measured"] == ["digits ptn-lf", "digits xlf+lf pass"]  # until now one alone


def test_a_task_that_fails_does_not_stop_the_others(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["methods=[none, cf-k]", "found=[1.0]", "train.iterations=5", "--out", str(tmp_path / "out")]
    assert main(["sweep", str(tiny_file), *arguments, "--quiet"]) == 1
    printed = capsys.readouterr()
    assert "cf-k: error: a SmallCNN has no splits" in printed.err
    assert printed.out.startswith("3 of 4 tasks are done")
    assert len(rows_of(tmp_path / "out")) == 1


def test_one_unlearning_alone_brings_what_it_needs(swept: Path, tiny_file: Path, tmp_path: Path):
    key = "digits_badnet_32_seed0_found16_ptn-ssd_m=16"
    assert main(["sweep", str(tiny_file), "--out", str(tmp_path / "one"), "--only", key, "--quiet"]) == 0
    assert timeless(tmp_path / "one") == {f"{key}.json": timeless(swept)[f"{key}.json"]}
    with pytest.raises(PotionError, match="no unlearning of the sweep is named"):
        run_sweep(tiny_file, tmp_path / "none", only="ptn")


def test_importances_are_shared_where_that_is_exact_and_rows_say_which(tmp_path: Path, tiny_file: Path, swept: Path):
    own = {row["retain_from"] for row in rows_of(swept) if row["objective"]}
    assert own == {"pass"}  # each |S_f| has a group size of its own
    overrides = ["methods=[ptn-xlf]", "found=[0.5, 1.0]", "train.iterations=5", "rho=[0.2]", "s_step=[2]"]
    for name, more, wanted in (
        ("shared", ["group_sizes=[8]"], "shared: whole groups of one pass over S_tr"),
        ("augmented", ["group_sizes=[8]", "augment=true"], "pass"),
        ("batches", ["group_sizes=[batch]"], "pass"),
    ):
        assert run_sweep(tiny_file, tmp_path / name, overrides=[*overrides, *more])["undone"] == []
        assert {row["retain_from"] for row in rows_of(tmp_path / name)} == {wanted}


def test_the_plan_has_what_every_unlearning_needs_once():
    whole = planned(seeds=[0, 1], poisoned=[10, 32], attacks={"a": {"patch_size": 2}, "b": {"poison": "random-swap"}})
    keys = [task.key for task in whole.tasks]
    assert len(keys) == len(set(keys)) == len(whole.trainings) + len(whole.passes) + len(whole.unlearnings)
    assert len(whole.trainings) == 2 * 2 * 2 * 2
    for unit in whole.unlearnings.values():
        retain = whole.retain_pass(unit)
        assert (retain is None) == (unit.method.objective is None)
        if retain is not None:
            assert unit.found in retain.founds
            assert unit.method.objective in retain.objectives
            assert (retain.model, retain.group_size) == (unit.model, unit.group_size)
        for need in whole.needs(unit):
            assert keys.index(need.key) < keys.index(unit.key)
        assert not whole.trainings[unit.model].config.leave_out_poisoned
        assert whole.trainings[reference_of(unit.model)].config.leave_out_poisoned
    for each in whole.passes.values():
        assert whole.readers(each)


def test_methods_keep_to_the_scenarios_that_they_are_given():
    methods = [{"method": "assd", "poisoned": [32], "found": [0.5]}, {"method": "none", "found": [1]}]
    whole = planned(poisoned=[10, 32], methods=methods)
    units = {
        (whole.trainings[unit.model].config.poisoned, unit.method.name, unit.found)
        for unit in whole.unlearnings.values()
    }
    assert units == {(32, "assd", 16), (10, "none", 1), (32, "none", 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown key 'colour' of a sweep; known: name, poisoned"),
        ({"found": [2.0]}, "shares of S_m"),
        ({"found": [33]}, "33 of 32"),
        ({"found": [0.001]}, "would be 0"),
        ({"found": []}, "found must be a list"),
        ({"methods": ["ptn"]}, "unknown unlearner"),
        ({"methods": [{"method": "assd", "rho": 1}]}, "no setting rho"),
        ({"methods": [{"rho": 1}]}, "`method: NAME`"),
        ({"rho": [2]}, "rho must be in"),
        ({"s_step": [1]}, "s_step must be above 1"),
        ({"train": {"colour": 1}}, "unknown key 'colour'"),
        ({"attacks": {"x": {"poison": "sine-wave", "patch_size": 2}}}, "no option patch_size"),
        ({"attacks": {}}, "attacks must be a mapping"),
        ({"mode": "fast"}, "unknown mode"),
        ({"curve": -1}, "curve must be"),
    ],
)
def test_a_wrong_sweep_is_refused_by_name(changes: dict[str, Any], message: str):
    with pytest.raises(PotionError, match=message):
        planned(**changes)


def test_overrides_reach_into_mappings_and_wrong_ones_are_refused(tiny_file: Path):
    config = load_sweep(tiny_file, ["train.width=8", "found=[1, 0.5]", "attacks.sine={poison: sine-wave}"])
    assert config.train["width"] == 8
    assert config.found == [1, 0.5]
    assert list(config.attacks) == ["badnet", "sine"]
    for wrong in ("width", "colour=1", "attacks.none.size=3", "found=[1"):
        with pytest.raises(PotionError):
            load_sweep(tiny_file, [wrong])
    with pytest.raises(PotionError, match="potion/smoke"):
        load_sweep("potion/smok")
    with pytest.raises(PotionError, match="processes"):
        run_sweep(tiny_file, "never", processes=0)


def test_in_reference_mode_the_found_samples_are_those_of_the_public_code():
    poisoned = np.sort(np.random.RandomState(0).choice(50000, 100, replace=False)).tolist()
    labels = torch.zeros(50000, dtype=torch.int64)
    splits, config = SimpleNamespace(train=SimpleNamespace(labels=labels)), SimpleNamespace(seed=0)
    scenario: Any = SimpleNamespace(poison=pf_poison(), poisoned=poisoned, bases=poisoned, splits=splits, config=config)
    scenario.draw_found = partial(Scenario.draw_found, scenario)
    fake: Any = SimpleNamespace(scenario=scenario, seed=0, config=SimpleNamespace(mode="reference"))
    assert TrainedModel.found(fake, 1) == [46712]
    ten, twenty = set(TrainedModel.found(fake, 10)), set(TrainedModel.found(fake, 20))
    assert ten < twenty < set(poisoned)
    assert 12363 in ten
    fake.config.mode = "default"
    assert set(TrainedModel.found(fake, 1)) < set(TrainedModel.found(fake, 10))


def pf_poison() -> Any:
    from potion_fast.bench.attacks import BadNet

    return BadNet(value=1.0)


def test_a_trace_is_read_to_the_first_step_that_passes():
    trace = [
        Step(k, 0.1 * k, 99.0, 9.0 - k, accuracy, k, 1.0) for k, accuracy in enumerate((0.9, 0.5, 0.6, 0.1, 0.1), 1)
    ]
    result: Any = SimpleNamespace(
        trace=trace, kept=trace[-1], initial_accuracy=1.0, reason=SATURATED, seconds={"search": 7.0}, mode="default"
    )
    stop = stop_at(result, 0.5, strict=False)
    assert (stop.kept, stop.steps, stop.reason, stop.seconds, stop.notes) == (trace[1], 2, THRESHOLD_PASSED, 4.0, [])
    assert stop_at(result, 0.5, strict=True).kept == trace[3]
    never = stop_at(result, 0.05, strict=False)
    assert (never.kept, never.steps, never.reason) == (trace[4], 5, SATURATED)
    assert "ended saturated before" in never.notes[0]
    assert stop_at(result, 0.1, strict=False).kept == trace[3]
    result.mode = "reference"  # whose 1/10 is 0.100000001
    assert stop_at(result, 0.1, strict=False).reason == SATURATED
    result.reason = OUT_OF_STEPS
    assert "out of steps" in stop_at(result, 0, strict=False).notes[0]
    assert [step.step for step in spread(trace, 3)] == [1, 3, 5]
    assert spread(trace, 0) == []


def test_a_finer_search_goes_as_far():
    assert steps_for(1.1) == steps_for(2) == MAX_STEPS
    assert 1.01 ** steps_for(1.01) >= 1.1**MAX_STEPS > 1.01 ** (steps_for(1.01) - 1)


def test_found_samples_that_bear_their_true_label_are_warned_of(swept: Path, tiny_file: Path):
    subject = subject_of(swept, tiny_file)
    scenario, before = subject.scenario, {"clean_accuracy": 1.0, "attack_success_rate": 1.0}
    true = [index for index in scenario.poisoned if scenario.splits.train.labels[index] == 0]
    false = [index for index in scenario.poisoned if scenario.splits.train.labels[index] != 0][:1]
    assert true
    assert "bear their true label" in notes_of_healing(scenario, 0.0, before, true, 0.2)[0]
    assert notes_of_healing(scenario, 0.0, before, false, 0.2) == []
    assert notes_of_healing(scenario, 0.0, before, true, None) == []
    assert "collapsed" in notes_of_healing(scenario, -30.0, before, false, 0.2)[0]
    assert pf.__version__ in yaml.safe_load((swept / "sweep.yaml").read_text())["versions"]["potion_fast"]


@pytest.mark.parametrize("text", ["3e-5", "3E-05", "0.3e-4", "+3.e-5", "0.00003"])
def test_small_numbers_are_numbers_however_they_are_written(text: str):
    config = load_sweep("potion/smoke", [f"train.lr={text}", f"methods=[{{method: cf, lr: {text}}}]"])
    assert config.train["lr"] == config.methods[0]["lr"] == 3e-5
    assert load_sweep("potion/smoke", ["train.model=e-5"]).train["model"] == "e-5"
