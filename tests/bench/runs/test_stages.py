from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import potion_fast as pf
from helpers.run_files import edit_config, metrics, rows, scenario_of, stored
from potion_fast import unlearning
from potion_fast.bench.data import read_indices
from potion_fast.bench.models import load_model
from potion_fast.bench.runs import (
    EvaluateConfig,
    TrainConfig,
    UnlearnConfig,
    evaluate_run,
    stages,
    train_run,
    unlearn_run,
)
from potion_fast.bench.runs.scenario import Scenario
from potion_fast.bench.training.train import seed_everything
from potion_fast.errors import DataError, FileError, PotionError
from potion_fast.utils.predict import predict

pytest_plugins = ["helpers.small_runs"]


# --- training


def test_training_writes_all_files_and_what_it_returns(tiny: dict[str, Any], tmp_path: Path):
    content = train_run(TrainConfig(**tiny), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "found.txt",
        "metrics.json",
        "model.safetensors",
        "poisoned.txt",
        "predictions.csv",
        "training.csv",
    ]
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    missing = {name for name, value in stored(tmp_path).items() if value is None}
    assert missing == {"root", "image_size"}  # everything else is resolved
    found, poisoned = (set(read_indices(tmp_path / name, 500)) for name in ("found.txt", "poisoned.txt"))
    assert (len(found), len(poisoned)) == (16, 64)
    assert found < poisoned


def test_predictions_stand_in_the_order_of_the_test_set(poisoned: Path):
    model, _ = load_model(poisoned / "model.safetensors")
    splits, poison = scenario_of(poisoned).splits, scenario_of(poisoned).poison
    images, labels = splits.dataset("test").batch(range(len(splits.test)))
    with torch.no_grad():
        columns = [model(x).argmax(1).tolist() for x in (images, poison(images))]
    read = [
        tuple(int(row[name]) for name in ("index", "label", "clean", "triggered"))
        for row in rows(poisoned / "predictions.csv")
    ]
    assert read == list(zip(range(len(labels)), labels.tolist(), *columns, strict=True))
    assert len({row[2] for row in read}) > 5  # a model that says one thing would pass in any order


def test_the_metrics_are_those_of_the_predictions(poisoned: Path):
    read = [{name: int(value) for name, value in row.items()} for row in rows(poisoned / "predictions.csv")]
    others = [row for row in read if row["label"] != 0]
    assert metrics(poisoned) == {
        "clean_accuracy": pytest.approx(np.mean([row["clean"] == row["label"] for row in read])),
        "triggered_accuracy": pytest.approx(np.mean([row["triggered"] == row["label"] for row in read])),
        "attack_success_rate": pytest.approx(np.mean([row["triggered"] == 0 for row in others])),
        "robust_accuracy": pytest.approx(np.mean([row["triggered"] == row["label"] for row in others])),
    }


def test_the_same_seed_gives_the_same_weights_and_metrics(tiny: dict[str, Any], poisoned: Path, tmp_path: Path):
    for name, seed in (("same", 0), ("other", 1)):
        train_run(TrainConfig(**tiny, seed=seed), tmp_path / name)
    weights = [(path / "model.safetensors").read_bytes() for path in (poisoned, tmp_path / "same", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]
    assert metrics(poisoned) == metrics(tmp_path / "same")
    assert (poisoned / "poisoned.txt").read_text() != (tmp_path / "other" / "poisoned.txt").read_text()


def test_the_seed_of_the_training_changes_the_model_and_not_what_is_poisoned(
    tiny: dict[str, Any], poisoned: Path, tmp_path: Path
):
    train_run(TrainConfig(**tiny, training_seed=5), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() != (poisoned / "model.safetensors").read_bytes()
    for name in ("poisoned.txt", "found.txt"):
        assert (tmp_path / name).read_text() == (poisoned / name).read_text()
    first, second = (next(iter(scenario_of(path).train_loader()))[1] for path in (tmp_path, poisoned))
    assert not torch.equal(first, second)  # other batches, too


def test_a_run_of_before_these_settings_is_still_read(copied: Path, tmp_path: Path):
    content = yaml.safe_load((copied / "config.yaml").read_text())
    for name in ("training_seed", "nesterov", "schedule"):
        del content["config"][name]
    (copied / "config.yaml").write_text(yaml.safe_dump(content))
    evaluate_run(EvaluateConfig(run=str(copied), device="cpu"), tmp_path / "out")
    assert metrics(tmp_path / "out").items() >= metrics(copied).items()


def test_schedule_and_nesterov_reach_the_training(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings: dict[str, Any] = {}
    train = stages.train
    monkeypatch.setattr(stages, "train", lambda *data, **options: settings.update(options) or train(*data, **options))
    train_run(TrainConfig(**{**tiny, "iterations": 3}, nesterov=True, schedule="cosine"), tmp_path)
    assert (settings["nesterov"], settings["schedule"]) == (True, "cosine")
    assert (stored(tmp_path)["nesterov"], stored(tmp_path)["schedule"]) == (True, "cosine")


def test_without_augmentation_every_epoch_trains_on_the_images_as_stored(tiny: dict[str, Any]):
    torch.manual_seed(0)
    for augment in (True, False):
        scenario = Scenario.load(TrainConfig(**tiny, augment=augment))
        stored_images = torch.cat([images for images, _ in scenario.plain_loader(shuffle=True, seed=0)])
        trained_on = torch.cat([images for images, _ in scenario.train_loader()])
        assert torch.equal(stored_images, trained_on) != augment


def test_a_reference_is_trained_without_any_poisoned_sample(clean: Path, poisoned: Path):
    reference, scenario = scenario_of(clean), scenario_of(poisoned)
    assert reference.poisoned == scenario.poisoned
    assert set(reference.trained_on) == set(range(500)) - set(scenario.poisoned)
    assert set(scenario.trained_on) == set(range(500))
    assert metrics(clean)["attack_success_rate"] < 0.5 < metrics(poisoned)["attack_success_rate"]


@pytest.mark.parametrize(
    ("settings", "keep", "held_out"),
    [
        ({"mode": "paper"}, "validation", 50),
        ({"mode": "reference"}, "test", 0),
        ({"mode": "paper", "keep": "last"}, "last", 0),
        ({"validation": 40}, "last", 40),
    ],
)
def test_the_epoch_that_is_kept_is_chosen_by_the_mode(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    keep: str,
    held_out: int,
):
    passed: dict[str, Any] = {}
    train = stages.train
    monkeypatch.setattr(stages, "train", lambda *data, **options: passed.update(options) or train(*data, **options))
    content = train_run(TrainConfig(**tiny, **settings), tmp_path)
    assert passed["keep"] == ("last" if keep == "last" else "best")
    assert (stored(tmp_path)["keep"], stored(tmp_path)["validation"]) == (keep, held_out)
    accuracies = [float(row["accuracy"] or "nan") for row in rows(tmp_path / "training.csv")]
    assert len(accuracies) == 8
    assert np.isnan(accuracies).all() == (keep == "last" and not held_out)
    kept = len(accuracies) - 1 if keep == "last" else int(np.argmax(accuracies))
    assert content["kept_epoch"] == kept + 1
    if keep == "test":
        assert metrics(tmp_path)["clean_accuracy"] == pytest.approx(accuracies[kept])
    scenario = scenario_of(tmp_path)
    assert len(scenario.validation) == held_out
    assert not set(scenario.validation) & set(scenario.trained_on)
    assert not set(scenario.validation) & set(scenario.poisoned)


def test_a_training_that_fails_in_evaluation_has_saved_its_model(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stages, "evaluated", _fail)
    with pytest.raises(ZeroDivisionError):
        train_run(TrainConfig(**tiny), tmp_path)
    load_model(tmp_path / "model.safetensors")
    assert (tmp_path / "training.csv").exists()
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": "mnist"}, "unknown data set 'mnist'"),
        ({"data": "folder", "root": "/nowhere"}, "/nowhere is not there"),
        ({"model": "vgg"}, "unknown model 'vgg'"),
        ({"model": "resnet9"}, "at least 11x11"),
        ({"poison": "sine"}, "unknown poison 'sine'"),
        ({"corner": "middle"}, "corner must be 'top-left', .*, not 'middle'"),
        ({"patch_size": 9}, "9x9 pixels does not fit"),
        ({"target": 10}, "target 10 is out of range"),
        ({"found": 65}, "cannot find 65 of 64"),
        ({"poisoned": 2000}, "among 500"),
        ({"train_size": 9999}, "train_size=9999 is out of range"),
        ({"validation": 480}, "cannot be held out"),
        ({"keep": "validation", "validation": 0}, "needs one"),
        ({"poisoned": 500, "leave_out_poisoned": True}, "validation set of 0 samples cannot be held out of 0"),
        ({"mode": "fast"}, "unknown mode 'fast'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "meta"}, "not supported"),
    ],
)
def test_bad_training_input_is_named_before_a_folder_is_made(
    tiny: dict[str, Any], tmp_path: Path, settings: dict[str, Any], words: str
):
    with pytest.raises(PotionError, match=words):
        train_run(TrainConfig(**{**tiny, "iterations": 1, **settings}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_single_class_cannot_be_attacked(tmp_path: Path):
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / split / "cat" / f"{number}.png")
    config = TrainConfig(data="folder", root=str(tmp_path), poisoned=1, found=1, device="cpu")
    with pytest.raises(DataError, match="all test images are of the target class"):
        train_run(config, tmp_path / "out")


def test_a_taken_folder_is_refused_before_the_data_are_read(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(stages.Scenario, "load", _fail)
    with pytest.raises(FileError, match="already there"):
        train_run(TrainConfig(**tiny), tmp_path)


# --- unlearning


def test_unlearning_writes_all_files_and_heals(healed: Path, poisoned: Path, clean: Path):
    assert {path.name for path in healed.iterdir()} == {
        "config.yaml",
        "curve.csv",
        "forget.safetensors",
        "found.txt",
        "healing.png",
        "metrics.json",
        "model.safetensors",
        "predictions.csv",
        "retain.safetensors",
        "trace.csv",
    }
    after, before, reference = metrics(healed), metrics(poisoned), metrics(clean)
    assert after["attack_success_rate"] < before["attack_success_rate"]
    assert after["model_damage"] == pytest.approx(100 * (after["clean_accuracy"] - before["clean_accuracy"]))
    assert after["poison_healed"] == pytest.approx(100 * after["triggered_accuracy"] / reference["triggered_accuracy"])
    content = json.loads((healed / "metrics.json").read_text())
    assert str(clean) in content["metrics"]["poison_healed"]["denominator"]
    removed = before["attack_success_rate"] - after["attack_success_rate"]
    effect = before["attack_success_rate"] - reference["attack_success_rate"]
    assert after["poison_removed"] == pytest.approx(100 * removed / effect)
    assert content["found"] == 16
    trace = rows(healed / "trace.csv")
    assert len(trace) == content["search"]["steps"]
    assert float(trace[-1]["alpha"]) == content["search"]["alpha"] == content["search"]["kept_step"]["alpha"]
    assert set(content["search"]["seconds"]) == {"forget", "retain", "search"}
    missing = {name for name, value in stored(healed).items() if value is None}
    assert missing == {"root", "data", "model", "forget", "w", "amp", "max_damage", "samples"}


def test_a_run_does_what_the_library_call_does(healed: Path, poisoned: Path):
    model, _ = load_model(poisoned / "model.safetensors")
    scenario = scenario_of(poisoned)
    retain = scenario.retain_loader(scenario.found, holds_forget=False, batch_size=64, seed=0)
    forget, plain = (scenario.forget_loader(scenario.found, augment=a, batch_size=64) for a in (True, False))
    seed_everything(0)
    with pytest.warns(pf.PotionWarning, match="clean accuracy on"):  # it was trained for a second
        result = pf.unlearn(model, retain, forget, evaluation_loader=plain)
    weights = load_model(healed / "model.safetensors")[0].state_dict()
    assert all(torch.equal(weights[name], value) for name, value in result.model.state_dict().items())
    assert any(not torch.equal(weights[name], value) for name, value in model.state_dict().items())
    for name, expected in (("forget", result.forget), ("retain", result.retain)):
        read = pf.Importance.load(healed / f"{name}.safetensors")
        assert torch.equal(read.sums, expected.sums)
        assert read.samples == expected.samples


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".npy"])
def test_every_format_of_the_forget_set_gives_the_same_result(
    tmp_path: Path, poisoned: Path, healed: Path, suffix: str
):
    found = read_indices(poisoned / "found.txt", 500)[::-1]  # the order says nothing
    path = tmp_path / f"s_f{suffix}"
    if suffix == ".npy":
        np.save(path, np.array(found, dtype=np.int32))
    else:
        lines = "\n".join(map(str, found))
        path.write_text({".txt": "# found\n" + lines, ".csv": "index\n" + lines, ".json": json.dumps(found)}[suffix])
    unlearn_run(UnlearnConfig(run=str(poisoned), forget=str(path), device="cpu"), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (healed / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "found.txt").read_text() == (poisoned / "found.txt").read_text()


def test_a_list_on_the_command_line_and_one_with_a_sample_twice_give_the_same_result(
    tmp_path: Path, poisoned: Path, healed: Path
):
    found = read_indices(poisoned / "found.txt", 500)
    (tmp_path / "twice.txt").write_text(", ".join(map(str, [*found, found[2]])))
    for name, given in (("list", ",".join(map(str, found))), ("twice", str(tmp_path / "twice.txt"))):
        content = unlearn_run(UnlearnConfig(run=str(poisoned), forget=given, device="cpu"), tmp_path / name)
        assert (tmp_path / name / "model.safetensors").read_bytes() == (healed / "model.safetensors").read_bytes()
        notes = [note for note in content["warnings"] if f"each counts once: {found[2]} (line 1)" in note]
        assert len(notes) == (name == "twice")
    kept = (tmp_path / "list" / "config.yaml").read_text()
    assert f"forget: {','.join(map(str, found))}\n" in kept  # no path, to be made absolute


def test_without_a_file_found_txt_of_the_training_run_counts(copied: Path, tmp_path: Path):
    index = read_indices(copied / "found.txt", 500)[0]
    (copied / "found.txt").write_text(f"{index}\n")
    content = unlearn_run(UnlearnConfig(run=str(copied), device="cpu", max_steps=1), tmp_path / "out")
    assert content["found"] == 1


class Loaders:
    """What the passes (S_f's first) and the search were given by a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.importances: list[Any] = []
        self.search: Any = None
        compute, search = unlearning.computed, unlearning.search_from

        def seen_pass(model: Any, loader: Any, *arguments: Any, **options: Any) -> Any:
            self.importances = sorted([*self.importances, (loader, options)], key=lambda seen: len(seen[0].dataset))
            return compute(model, loader, *arguments, **options)

        def seen_search(unedited: Any, *arguments: Any, **options: Any) -> Any:
            self.search = unedited
            return search(unedited, *arguments, **options)

        monkeypatch.setattr(unlearning, "computed", seen_pass)
        monkeypatch.setattr(unlearning, "search_from", seen_search)


@pytest.mark.parametrize(
    ("mode", "group_size", "b_start", "retained", "augmented"),
    [
        ("default", 16, 1 / 25, 500 - 16, False),
        ("reference", "batch", 1 / 25, 500 - 16, True),
        ("paper", 1, 25.0, 500, False),
    ],
)
def test_modes_differ_where_the_paper_and_its_code_do(
    tmp_path: Path,
    poisoned: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    group_size: Any,
    b_start: float,
    retained: int,
    augmented: bool,
):
    seen = Loaders(monkeypatch)
    config = UnlearnConfig(run=str(poisoned), mode=mode, device="cpu", max_steps=2)
    content = unlearn_run(config, tmp_path / "out")
    (forget, options), (retain, _) = seen.importances
    evaluated = seen.search.evaluation.loader

    assert options["group_size"] == group_size == stored(tmp_path / "out")["group_size"]
    assert seen.search.settings.b_start == b_start == stored(tmp_path / "out")["b_start"]
    assert float(rows(tmp_path / "out" / "trace.csv")[0]["s"]) == pytest.approx(16 / 500 * b_start)
    assert len(retain.dataset) == retained
    assert pf.Importance.load(tmp_path / "out" / "retain.safetensors").samples == retained
    assert len(forget.dataset) == len(evaluated.dataset) == 16
    assert all((labels == 0).all() for _, labels in forget)  # with the poison's label
    assert retain.dataset.dataset.augment and forget.dataset.dataset.augment
    assert evaluated.dataset.dataset.augment == augmented
    first, second = (torch.cat([images for images, _ in evaluated]) for _ in range(2))
    assert torch.equal(first, second) != augmented
    assert content["search"]["mode"] == mode


def test_an_explicit_flag_wins_over_the_mode(tmp_path: Path, poisoned: Path, monkeypatch: pytest.MonkeyPatch):
    seen = Loaders(monkeypatch)
    config = UnlearnConfig(
        run=str(poisoned), mode="reference", group_size=4, b_start=0.5, batch_size=32, max_steps=1, device="cpu"
    )
    unlearn_run(config, tmp_path / "out")
    (forget, options), (retain, _) = seen.importances
    assert (options["group_size"], seen.search.settings.b_start) == (4, 0.5)
    assert forget.batch_size == retain.batch_size == 32
    assert pf.Importance.load(tmp_path / "out" / "retain.safetensors").terms == -(-484 // 4)


def test_workers_and_device_are_those_of_the_run_and_not_of_the_training(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    edit_config(copied, device="cuda:7", workers=3)  # trained on another machine
    seen = Loaders(monkeypatch)
    unlearn_run(UnlearnConfig(run=str(copied), device="cpu", max_steps=1), tmp_path / "out")
    assert seen.importances[0][0].num_workers == 0
    evaluate_run(EvaluateConfig(run=str(copied), device="cpu"), tmp_path / "evaluated")


@pytest.mark.parametrize("failing", ["search_from", "evaluated", "draw_healing"])
def test_what_was_expensive_is_on_disk_when_a_later_step_fails(
    tmp_path: Path, poisoned: Path, healed: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    monkeypatch.setattr(unlearning if failing == "search_from" else stages, failing, _fail)
    with pytest.raises(ZeroDivisionError):
        unlearn_run(UnlearnConfig(run=str(poisoned), device="cpu"), tmp_path / "out")
    out, written = tmp_path / "out", {"config.yaml", "found.txt", "forget.safetensors", "retain.safetensors"}
    for name in ("forget", "retain"):
        sums = [pf.Importance.load(run / f"{name}.safetensors").sums for run in (out, healed)]
        assert torch.equal(*sums)
    if failing != "search_from":
        written |= {"model.safetensors", "trace.csv"}
        assert (out / "model.safetensors").read_bytes() == (healed / "model.safetensors").read_bytes()
    if failing == "draw_healing":
        written |= {"predictions.csv", "metrics.json"}
        assert metrics(out)["clean_accuracy"] == metrics(healed)["clean_accuracy"]
    assert {path.name for path in out.iterdir()} == written


def test_a_trigger_that_was_never_learnt_leaves_the_model_unchanged_with_a_warning(
    clean: Path, copied: Path, tmp_path: Path
):
    shutil.copy(clean / "model.safetensors", copied / "model.safetensors")
    scenario = scenario_of(copied)
    model, _ = load_model(copied / "model.safetensors")
    logits, _ = predict(model, scenario.forget_loader(scenario.found, augment=False, batch_size=64))
    found = [i for i, given in zip(scenario.found, logits.argmax(1).tolist(), strict=True) if given != 0]
    (copied / "found.txt").write_text("\n".join(map(str, found)))
    content = unlearn_run(UnlearnConfig(run=str(copied), curve=True, device="cpu"), tmp_path / "out")
    assert (content["search"]["reason"], content["search"]["kept_step"]) == ("trigger not learnt", None)
    assert any("not learnt" in note for note in content["warnings"])
    assert (tmp_path / "out" / "trace.csv").read_text().count("\n") == 1
    assert (tmp_path / "out" / "curve.csv").read_text() == "s,dampened,clean_accuracy,triggered_accuracy\n"
    assert (tmp_path / "out" / "healing.png").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _foreign(path: Path) -> None:
    path.write_bytes(b"not a model")


BREAK: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda run: shutil.rmtree(run), "is not a run folder"),
    "truncated model": (lambda run: _cut(run / "model.safetensors"), "model.safetensors cannot be read"),
    "foreign model": (lambda run: _foreign(run / "model.safetensors"), "model.safetensors cannot be read"),
    "no model": (lambda run: (run / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "unfinished": (lambda run: (run / "metrics.json").unlink(), "not finished"),
    "other metrics": (lambda run: (run / "metrics.json").write_text('{"metrics": []}'), "does not hold the metrics"),
    "null metrics": (
        lambda run: (run / "metrics.json").write_text('{"metrics": {"clean_accuracy": {"value": null}}}'),
        "does not hold the metrics",
    ),
    "unknown key": (lambda run: edit_config(run, itterations=3), r"config\.yaml: unknown key 'itterations'"),
    "wrong type": (lambda run: edit_config(run, iterations="many"), "iterations must be a whole number, not 'many'"),
    "wrong list": (lambda run: edit_config(run, mean=["grey"]), "mean must be a list of numbers"),
    "wrong switch": (lambda run: edit_config(run, leave_out_poisoned="no"), "must be true or false, not 'no'"),
    "wrong choice": (lambda run: edit_config(run, keep="best"), "keep must be 'last', 'test' or 'validation'"),
    "a number that is not finite": (lambda run: edit_config(run, lr=float("nan")), "lr must be finite"),
    "other data": (lambda run: edit_config(run, train_size=400), "not the data of the training|out of range"),
    "other draw": (lambda run: edit_config(run, seed=5), "these are not the data of the training"),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_training_run_is_named_before_a_folder_is_made(copied: Path, tmp_path: Path, how: str):
    spoil, words = BREAK[how]
    spoil(copied)
    with pytest.raises(PotionError, match=words):
        unlearn_run(UnlearnConfig(run=str(copied), device="cpu"), tmp_path / "out")
    with pytest.raises(PotionError, match=words):
        evaluate_run(EvaluateConfig(run=str(copied), device="cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "fisher"}, "unknown objective 'fisher'"),
        ({"objective": "lf", "w": 2.0}, "not both"),
        ({"w": -1.0}, "w of eq. 4 must be above 0"),
        ({"mode": "fast"}, "unknown mode"),
        ({"rho": 1.5}, "rho must be in"),
        ({"s_step": 1.0}, "s_step must be above 1"),
        ({"b_start": 0.0}, "b_start must be above 0"),
        ({"forget": "missing.txt"}, "missing.txt cannot be read"),
        ({"reference": "missing"}, "missing is not a run folder"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_bad_unlearning_input_is_named_before_a_folder_is_made(
    tmp_path: Path, poisoned: Path, settings: dict[str, Any], words: str
):
    with pytest.raises(PotionError, match=words):
        unlearn_run(UnlearnConfig(**{"run": str(poisoned), "device": "cpu", **settings}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "holds no index"),
        ("500\n", "index 500 is out of range"),
        ("-1\n", "index -1 is out of range"),
        ("three\n", "'three' is not an integer"),
        ("\n".join(map(str, range(500))), "nothing is left to retain"),
    ],
    ids=["empty", "too large", "negative", "no number", "everything"],
)
def test_a_bad_forget_set_is_named_before_a_folder_is_made(tmp_path: Path, poisoned: Path, lines: str, words: str):
    (tmp_path / "s_f.txt").write_text(lines)
    with pytest.raises(DataError, match=words):
        unlearn_run(UnlearnConfig(run=str(poisoned), forget=str(tmp_path / "s_f.txt"), device="cpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_samples_that_the_model_never_saw_cannot_be_forgotten(tmp_path: Path, clean: Path):
    with pytest.raises(DataError, match="not among those the model was trained on"):
        unlearn_run(UnlearnConfig(run=str(clean), device="cpu"), tmp_path / "out")


def test_a_reference_must_be_one(tmp_path: Path, poisoned: Path, clean: Path, healed: Path):
    def run(reference: Path) -> None:
        unlearn_run(UnlearnConfig(run=str(poisoned), reference=str(reference), device="cpu"), tmp_path / "out")

    with pytest.raises(DataError, match="was trained with poisoned samples"):
        run(poisoned)
    with pytest.raises(FileError, match="a run of 'unlearn'; a run of 'train' is needed"):
        run(healed)
    other = Path(shutil.copytree(clean, tmp_path / "other"))
    edit_config(other, corner="top-left")
    with pytest.raises(DataError, match="has corner 'top-left' and the model 'bottom-right'"):
        run(other)
    blind = Path(shutil.copytree(clean, tmp_path / "blind"))
    content = json.loads((blind / "metrics.json").read_text())
    content["metrics"]["triggered_accuracy"]["value"] = 0.0
    (blind / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no triggered test image right"):
        run(blind)
    assert not (tmp_path / "out").exists()


def test_a_run_does_not_overwrite_what_it_reads(
    copied: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = (copied / "model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    for out in (copied, Path("copied"), Path("copied/../copied")):
        with pytest.raises(FileError, match="is read by this run"):
            unlearn_run(UnlearnConfig(run=str(copied), device="cpu"), out, overwrite=True)
        with pytest.raises(FileError, match="is read by this run"):
            evaluate_run(EvaluateConfig(run=str(copied), device="cpu"), out, overwrite=True)
    with pytest.raises(FileError, match="is read by this run"):
        unlearn_run(UnlearnConfig(run=str(copied), reference=str(clean), device="cpu"), clean, overwrite=True)
    unlearn_run(UnlearnConfig(run=str(copied), device="cpu", max_steps=1), tmp_path / "healed")
    with pytest.raises(FileError, match="is read by this run"):
        evaluate_run(EvaluateConfig(run="healed", device="cpu"), copied, overwrite=True)
    assert (copied / "model.safetensors").read_bytes() == kept


def test_overwriting_an_earlier_run_leaves_nothing_of_it(tmp_path: Path, poisoned: Path):
    out = tmp_path / "out"
    unlearn_run(UnlearnConfig(run=str(poisoned), device="cpu", max_steps=1, curve=True), out)
    evaluate_run(EvaluateConfig(run=str(poisoned), device="cpu"), out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "metrics.json", "predictions.csv"]
    assert yaml.safe_load((out / "config.yaml").read_text())["command"] == "evaluate"


def _fail(*arguments: object, **options: object) -> Any:
    raise ZeroDivisionError
