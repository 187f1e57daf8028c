from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import potion_fast as pf
from helpers.run_files import metrics, rows, scenario_of, stored
from potion_fast.bench.metrics import evaluate_poison
from potion_fast.bench.models import load_model
from potion_fast.bench.runs import EvaluateConfig, TrainConfig, UnlearnConfig, evaluate_run, train_run, unlearn_run
from potion_fast.bench.runs.tradeoff import trade_off
from potion_fast.errors import DataError, FileError, ModelError

pytest_plugins = ["helpers.small_runs"]


def test_evaluating_again_gives_the_same_numbers(tmp_path: Path, poisoned: Path, clean: Path, healed: Path):
    evaluate_run(EvaluateConfig(run=str(healed), reference=str(clean), device="cpu"), tmp_path / "healed")
    assert metrics(tmp_path / "healed") == metrics(healed)
    assert (tmp_path / "healed" / "predictions.csv").read_bytes() == (healed / "predictions.csv").read_bytes()
    evaluate_run(EvaluateConfig(run=str(poisoned), device="cpu"), tmp_path / "poisoned")
    assert metrics(tmp_path / "poisoned") == {**metrics(poisoned), "model_damage": 0.0}
    with pytest.raises(FileError, match="a run of 'evaluate'; a run of 'train' or 'unlearn' or 'heal' is needed"):
        evaluate_run(EvaluateConfig(run=str(tmp_path / "healed"), device="cpu"), tmp_path / "again")


def test_a_training_run_that_was_moved_is_named(copied: Path, tmp_path: Path):
    unlearn_run(UnlearnConfig(run=str(copied), device="cpu", max_steps=1), tmp_path / "healed")
    copied.rename(tmp_path / "moved")
    with pytest.raises(FileError, match=r"unlearnt from the training run .*/copied, which is not there; move it back"):
        evaluate_run(EvaluateConfig(run=str(tmp_path / "healed"), device="cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_are_read_from_any_folder(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    unlearn_run(UnlearnConfig(run="copied", device="cpu", max_steps=1), "healed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert stored(tmp_path / "healed")["run"] == str(copied)
    evaluate_run(EvaluateConfig(run="../healed", device="cpu"), "out")
    assert metrics(Path("out")) == metrics(tmp_path / "healed")


def test_data_that_were_moved_are_found_with_root(tmp_path: Path):
    from PIL import Image

    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    config = TrainConfig(
        data="folder", root=str(tmp_path / "data"), poisoned=4, found=2, width=4, iterations=2, batch_size=6
    )
    train_run(config, tmp_path / "trained")
    (tmp_path / "data").rename(tmp_path / "moved")
    again = EvaluateConfig(run=str(tmp_path / "trained"))
    with pytest.raises(DataError, match="data is not there"):
        evaluate_run(again, tmp_path / "out")
    evaluate_run(EvaluateConfig(run=str(tmp_path / "trained"), root=str(tmp_path / "moved")), tmp_path / "out")
    assert metrics(tmp_path / "out")["clean_accuracy"] == metrics(tmp_path / "trained")["clean_accuracy"]

    for split in ("train", "test"):
        (tmp_path / "moved" / split / "dog").rename(tmp_path / "moved" / split / "wolf")
    with pytest.raises(ModelError, match="knows other classes"):
        evaluate_run(EvaluateConfig(run=str(tmp_path / "trained"), root=str(tmp_path / "moved")), tmp_path / "other")


# --- the curve


def test_the_curve_passes_through_the_result_and_leaves_the_model_alone(healed: Path, poisoned: Path):
    model, _ = load_model(poisoned / "model.safetensors")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    scenario = scenario_of(poisoned)
    forget, retain = (pf.Importance.load(healed / f"{name}.safetensors") for name in ("forget", "retain"))
    loader = scenario.forget_loader(scenario.found, augment=False, batch_size=64)
    result = pf.ptn_search(model, forget, retain, loader)
    points = trade_off(model, result, scenario)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert [point.dampened for point in points] == sorted({point.dampened for point in points})

    at_the_end = next(point for point in points if point.s == result.trace[-1].s)
    expected = evaluate_poison(result.model, scenario.test_loader(False), scenario.test_loader(True), 0).metrics
    assert at_the_end.dampened == result.trace[-1].dampened
    assert at_the_end.clean_accuracy == expected["clean_accuracy"].value
    assert at_the_end.triggered_accuracy == expected["triggered_accuracy"].value
    assert [row["dampened"] for row in rows(healed / "curve.csv")] == [str(point.dampened) for point in points]


def test_the_curve_ends_where_percentiles_do(poisoned: Path, tmp_path: Path):
    """A search that has come down to percentile 1 has little range past its end."""
    config = UnlearnConfig(run=str(poisoned), device="cpu", rho=0.0, s_step=1e41 / (16 / 500 / 25), curve=True)
    content = unlearn_run(config, tmp_path / "out")
    assert content["search"]["kept_step"]["percentile"] == pytest.approx(1, abs=0.1)
    assert rows(tmp_path / "out" / "curve.csv")
