from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.run_files import metrics, rows, scenario_of, stored
from potion_fast.bench.models import load_model
from potion_fast.bench.runs import (
    EvaluateConfig,
    HealConfig,
    TrainConfig,
    UnlearnConfig,
    evaluate_run,
    heal_run,
    train_run,
    unlearn_run,
)
from potion_fast.errors import DataError, FileError


def config(run: Path, **changes: Any) -> HealConfig:
    return HealConfig(run=str(run), device="cpu", labels="second-best", **changes)


SMALL: dict[str, Any] = {"train_size": 800, "width": 16, "iterations": 150, "patch_size": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a model that knows its digits: poisoned, never poisoned, dampened, and healed beside the other three."""
    path = tmp_path_factory.mktemp("runs")
    train_run(TrainConfig(**SMALL), path / "poisoned")
    train_run(TrainConfig(**SMALL, leave_out_poisoned=True), path / "clean")
    unlearn_run(UnlearnConfig(run=str(path / "poisoned"), device="cpu", strategy="bisect"), path / "dampened")
    others = {"reference": str(path / "clean"), "dampened": str(path / "dampened")}
    heal_run(config(path / "poisoned", **others), path / "healed")
    return path


@pytest.fixture
def poisoned(folder: Path) -> Path:
    return folder / "poisoned"


@pytest.fixture
def clean(folder: Path) -> Path:
    return folder / "clean"


@pytest.fixture
def out(folder: Path) -> Path:
    """The healing's own."""
    return folder / "healed"


def test_a_healing_lowers_the_attack_and_writes_its_files(out: Path, poisoned: Path):
    assert sorted(path.name for path in out.iterdir()) == [
        "classes.csv",
        "config.yaml",
        "found.txt",
        "healing.png",
        "metrics.json",
        "model.safetensors",
        "predictions.csv",
        "suspects.csv",
        "suspects.png",
        "trace.csv",
    ]
    before, after = metrics(poisoned), metrics(out)
    assert after["attack_success_rate"] < before["attack_success_rate"] / 2
    assert after["poison_healed"] > 50
    for name in ("healing.png", "suspects.png"):
        with Image.open(out / name) as image:
            assert image.format == "PNG"
    assert stored(out)["run"] == str(poisoned)


def test_the_suspects_are_listed_with_their_labels_and_counted_against_the_poison(out: Path):
    scenario, table = scenario_of(out_of(out)), rows(out / "suspects.csv")
    content = json.loads((out / "metrics.json").read_text())
    counts = content["suspects"]
    listed = {int(row["index"]) for row in table if row["fits"] == "1"}
    assert counts["suspects"] == len(listed) == content["healing"]["suspects"]
    assert counts["clean"] == len(listed - set(scenario.poisoned))
    assert counts["hidden"] == len(scenario.poisoned) - len(scenario.found)
    assert counts["hidden_suspects"] == len(listed & (set(scenario.poisoned) - set(scenario.found)))
    given = scenario.train_set(augment=False).labels
    assert all(int(row["given"]) == given[int(row["index"])] for row in table if row["fits"] == "1")
    assert {int(row["index"]) for row in table if row["found"] == "1"} == set(scenario.found)
    true = scenario.splits.train.labels
    right = sum(int(row["proposed"]) == true[int(row["index"])] for row in table if row["proposed"])
    assert counts["labels_right"] == right > 0


def out_of(run: Path) -> Path:
    """The training run that a run is of."""
    return Path(stored(run)["run"])


def test_the_classes_are_those_of_every_model_in_order(out: Path, folder: Path):
    table = rows(out / "classes.csv")
    assert list(dict.fromkeys(row["model"] for row in table)) == ["poisoned", "dampened", "healed", "never poisoned"]
    for name, run in (("healed", out), ("dampened", folder / "dampened")):
        own = [row for row in table if row["model"] == name]
        total = sum(int(row["n"]) * float(row["clean_accuracy"]) for row in own) / sum(int(row["n"]) for row in own)
        assert total == pytest.approx(metrics(run)["clean_accuracy"], abs=1e-5)


def test_evaluating_the_healed_model_again_gives_the_same_numbers(out: Path, clean: Path, tmp_path: Path):
    evaluate_run(EvaluateConfig(run=str(out), reference=str(clean), device="cpu"), tmp_path / "again")
    assert metrics(tmp_path / "again") == metrics(out)


def test_an_edited_list_is_what_is_healed(out: Path, poisoned: Path, tmp_path: Path):
    table = (out / "suspects.csv").read_text().splitlines()
    edited = tmp_path / "edited.csv"
    edited.write_text("\n".join([table[0], *table[3:]]) + "\n")
    taken_out = {int(line.split(",")[0]) for line in table[1:3]}
    heal_run(config(poisoned, suspects=str(edited)), tmp_path / "out")
    again = {int(row["index"]) for row in rows(tmp_path / "out" / "suspects.csv") if row["fits"] == "1"}
    assert again == {int(row["index"]) for row in rows(out / "suspects.csv") if row["fits"] == "1"} - taken_out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["healing"]["kind"] in ("given", "trigger")


def test_indices_count_the_whole_training_set_where_some_of_it_was_held_out(tmp_path: Path):
    trained = tmp_path / "trained"
    train_run(TrainConfig(**SMALL, keep="validation", validation=100), trained)
    scenario = scenario_of(trained)
    assert scenario.trained_on != list(range(len(scenario.splits.train)))
    content = heal_run(config(trained), tmp_path / "out")
    table = [row for row in rows(tmp_path / "out" / "suspects.csv") if row["fits"] == "1"]
    given = scenario.train_set(augment=False).labels
    assert all(int(row["given"]) == given[int(row["index"])] for row in table)
    assert set(scenario.validation).isdisjoint(int(row["index"]) for row in table)
    assert content["healing"]["judged_by"].startswith("100 ")


def test_label_swaps_are_healed_and_drawn_too(tmp_path: Path):
    trained, images = tmp_path / "trained", {key: value for key, value in SMALL.items() if key != "patch_size"}
    train_run(TrainConfig(**images, poison="interclass-swap", swap_classes=(3, 8), poisoned=40, found=20), trained)
    heal_run(HealConfig(run=str(trained), device="cpu"), tmp_path / "out")
    assert "manipulated_accuracy" in rows(tmp_path / "out" / "classes.csv")[0]
    assert (tmp_path / "out" / "healing.png").exists()


def test_what_does_not_fit_together_is_refused_before_a_folder_is_made(
    poisoned: Path, clean: Path, folder: Path, tmp_path: Path
):
    n = len(scenario_of(poisoned).splits.train)
    (tmp_path / "high.csv").write_text(f"index\n3\n{n}\n")
    (tmp_path / "other.csv").write_text("index,given\n3,4\n4,4\n5,4\n")
    (tmp_path / "label.csv").write_text("index,proposed\n3,10\n")
    (tmp_path / "none.csv").write_text("index,found,fits\n3,1,0\n")
    cases = [
        (config(clean), DataError, "was trained without the poison .* there is nothing to heal"),
        (config(poisoned, suspects=str(tmp_path / "high.csv")), DataError, f"high.csv: suspects have the index {n}"),
        (
            config(poisoned, suspects=str(tmp_path / "other.csv")),
            DataError,
            "other.csv: the suspects are of other data",
        ),
        (config(poisoned, suspects=str(tmp_path / "label.csv")), DataError, "proposes the label 10, and there are 10"),
        (config(poisoned, suspects=str(tmp_path / "none.csv")), DataError, "none.csv holds no suspect"),
        (config(poisoned, found=f"3,{n}"), DataError, f"the list '3,{n}', entry 2: index {n} is out of range"),
        (config(poisoned, suspects=str(tmp_path / "not.csv")), FileError, "cannot read the suspects in .*not.csv"),
        (config(poisoned, found=str(tmp_path / "high.csv")), DataError, f"index {n} is out of range"),
        (
            config(shutil.copytree(poisoned, tmp_path / "copied"), dampened=str(folder / "dampened")),
            DataError,
            "was unlearnt from .*poisoned, not from .*copied",
        ),
        (config(poisoned, dampened=str(clean)), FileError, "is a run of 'train'; a run of 'unlearn' is needed"),
        (config(poisoned, reference=str(poisoned)), DataError, "trained with --leave-out-poisoned"),
    ]
    for wrong, error, words in cases:
        with pytest.raises(error, match=words):
            heal_run(wrong, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(FileError, match="read by this run"):
        heal_run(config(poisoned), poisoned, overwrite=True)


def test_the_model_of_the_training_run_is_left_as_it_was(out: Path, poisoned: Path):
    trained, _ = load_model(poisoned / "model.safetensors")
    changed, _ = load_model(out / "model.safetensors")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), changed.parameters(), strict=True))
