"""Signals at random moments of a pass, a save, a training, a sweep, a report: no half-written file, and all resume."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import potion_fast as pf
from campaign import FULL, note
from helpers.run_files import metrics
from potion_fast.bench.models import load_model
from potion_fast.bench.report import report_sweep
from potion_fast.bench.report.make import _earlier
from potion_fast.bench.runs import TrainConfig, train_run
from potion_fast.bench.sweep import run_sweep
from potion_fast.importances.checkpoints import FILE_KEY
from potion_fast.user.run_folder import RunFolder
from potion_fast.utils.checksummed import load_checksummed
from victims import (
    TINY,
    ended,
    model,
    passing,
    reporting,
    saving,
    seconds_of,
    stopped,
    stored,
    sweeping,
    training,
)

pytestmark = pytest.mark.usefixtures("one_thread")
KILLS = 20 if FULL else 3
full = pytest.mark.skipif(not FULL, reason="takes minutes: `make faults` runs it")


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_pass_resumes_to_the_same_bits(tmp_path: Path, number: signal.Signals):
    seconds = seconds_of(passing, fresh(tmp_path / "whole"))
    wanted = pf.Importance.load(tmp_path / "whole" / "result.safetensors")
    draw, attempts, broken, kept = random.Random(number), 0, 0, 0
    while attempts < KILLS or (not broken and attempts < 10 * KILLS):  # some have ended before their signal
        attempts += 1
        folder = fresh(tmp_path / "run")
        code = stopped(passing, folder, seconds, number, draw)
        broken += code != 0
        if (folder / "pass.safetensors").exists():
            kept += 1
            content, _ = load_checksummed(folder / "pass.safetensors", FILE_KEY, "interrupted pass")
            assert 0 < content["position"]["samples"] <= 90
        passing(folder)
        found = pf.Importance.load(folder / "result.safetensors")
        assert torch.equal(found.sums, wanted.sums) and (found.samples, found.terms) == (90, 90)
        assert sorted(path.name for path in folder.iterdir()) == ["begun", "result.safetensors"]
    assert broken, "every pass had ended before its signal"
    note(
        f"{number.name} of a pass: {attempts} of {attempts} to the same bits, {broken} interrupted, {kept} checkpoints"
    )


def test_a_killed_save_leaves_one_whole_file(tmp_path: Path):
    seconds, draw, with_unfinished = seconds_of(saving, fresh(tmp_path / "whole")), random.Random(0), 0
    for _ in range(KILLS):
        folder = fresh(tmp_path / "run")
        assert stopped(saving, folder, seconds, signal.SIGKILL, draw) in (-signal.SIGKILL, 0)
        if (folder / "x.safetensors").exists():
            found = pf.Importance.load(folder / "x.safetensors")
            wanted = stored(found.samples - 5)
            assert torch.equal(found.sums, wanted.sums)
        if (folder / "model.safetensors").exists():
            weights = load_model(folder / "model.safetensors")[0].state_dict()
            assert any(all(map(torch.equal, weights.values(), model(i).state_dict().values())) for i in (0, 1))
        with_unfinished += len(unfinished(folder)) > 0
        saving(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["begun", "model.safetensors", "x.safetensors"]
    note(f"SIGKILL of a save: {KILLS} of {KILLS} left whole files, {with_unfinished} of them an unfinished one as well")


def test_a_killed_training_can_be_done_again(tmp_path: Path):
    seconds = seconds_of(training, fresh(tmp_path / "whole"))
    wanted, draw = metrics(tmp_path / "whole" / "run"), random.Random(0)
    for _ in range(KILLS):
        folder = fresh(tmp_path / "killed")
        stopped(training, folder, seconds, signal.SIGKILL, draw)
        train_run(TrainConfig(**TINY, device="cpu"), folder / "run", overwrite=True)
        assert metrics(folder / "run") == wanted
        assert not unfinished(folder)
    note(f"SIGKILL of a training: {KILLS} of {KILLS} repeated with the same metrics")


def a_sweep(folder: Path) -> Path:
    train = {name: value for name, value in TINY.items() if name not in ("poisoned", "found", "patch_size")}
    content: dict[str, Any] = {
        "train": {**train, "device": "cpu"},
        "attacks": {"badnet": {"poison": "badnet", "patch_size": 3}},
        "poisoned": [16],
        "found": [1, 0.5],
        "methods": ["none", "ptn-xlf", {"method": "cf", "iterations": 3}],
    }
    (fresh(folder) / "sweep.yaml").write_text(yaml.safe_dump(content))
    return folder


def rows_of(out: Path) -> dict[str, Any]:
    """By file, without the times."""
    content = {path.name: json.loads(path.read_text())["rows"] for path in sorted((out / "results").glob("*.json"))}
    for rows in content.values():
        for row in rows:
            del row["seconds"]
    return content


@full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_resumes_to_the_same_rows(tmp_path: Path, number: signal.Signals):
    seconds, draw, broken = seconds_of(sweeping, a_sweep(tmp_path / "whole")), random.Random(number), 0
    wanted = rows_of(tmp_path / "whole" / "out")
    for _ in range(KILLS):
        folder = a_sweep(tmp_path / "run")
        broken += stopped(sweeping, folder, seconds, number, draw) != 0
        for path in (folder / "out").glob("results/*.json"):
            assert json.loads(path.read_text())["rows"]
        assert run_sweep(folder / "sweep.yaml", folder / "out")["undone"] == []
        assert rows_of(folder / "out") == wanted
        assert not unfinished(folder) and not list(folder.rglob("found*.safetensors"))
    note(f"{number.name} of a sweep: {KILLS} of {KILLS} resumed to the same rows, {broken} interrupted")


@full
def test_a_killed_report_can_be_made_again(tmp_path: Path):
    assert ended(sweeping, a_sweep(tmp_path / "swept")) == 0
    seconds, draw = seconds_of(reporting, tmp_path / "swept"), random.Random(0)
    wanted = sorted(path.name for path in (tmp_path / "swept" / "report").rglob("*"))
    for _ in range(KILLS):
        shutil.rmtree(tmp_path / "swept" / "report")
        (tmp_path / "swept" / "begun").unlink()
        stopped(reporting, tmp_path / "swept", seconds, signal.SIGKILL, draw)
        report_sweep(tmp_path / "swept" / "out", tmp_path / "swept" / "report", samples=0)
        assert sorted(path.name for path in (tmp_path / "swept" / "report").rglob("*")) == wanted
    note(f"SIGKILL of a report: {KILLS} of {KILLS} made again")


def test_an_interrupted_report_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    row = {"attack": "badnet", "data": "d", "model": "m", "method": "none", "seed": 0, "poisoned": 2, "found": 1}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text(json.dumps({"rows": [row]}))

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("potion_fast.bench.report.make.potion_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report_sweep(tmp_path, samples=0)
    assert _earlier(RunFolder(tmp_path / "report")) == []


@pytest.mark.parametrize("names", [[], [".config.yaml.0123abcd.part"], [".model.safetensors.0123abcd.part"]])
def test_a_folder_that_a_killed_run_had_just_made_is_free(tmp_path: Path, names: list[str]):
    for name in names:
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "half").touch()
    train_run(TrainConfig(**TINY, device="cpu"), tmp_path / "run")
    assert not unfinished(tmp_path)


def test_a_sweep_that_was_killed_before_it_wrote_its_configuration_resumes(tmp_path: Path):
    folder = a_sweep(tmp_path / "sweep")
    (folder / "out" / ".sweep.yaml.0123abcd.part").mkdir(parents=True)
    assert run_sweep(folder / "sweep.yaml", folder / "out", only="*none")["undone"] == []
    assert not unfinished(folder)


def test_files_that_another_process_is_writing_are_not_removed_as_unfinished(tmp_path: Path):
    from potion_fast.utils.atomic_files import hold, release, remove_unfinished

    mine, others = tmp_path / ".x.json.0123abcd.part", tmp_path / ".x.json.0123abce.part"
    mine.mkdir()
    others.mkdir()
    held = hold(mine)
    remove_unfinished(tmp_path, "x.json")
    assert os.listdir(tmp_path) == [mine.name]
    release(held)
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == []
