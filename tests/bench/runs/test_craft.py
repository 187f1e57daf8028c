"""Perturbations from end to end: crafted or drawn, trained on, unlearnt, and what is measured of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from helpers.figures import texts_outside
from helpers.run_files import edit_config, metrics, rows, stored
from potion_fast.bench.attacks import NO_LABEL, Gaussian, GradientCanceling, GradientMatching, Perturbations
from potion_fast.bench.attacks.crafting import descent, restarts
from potion_fast.bench.figures import pictures
from potion_fast.bench.models import load_model, save_model
from potion_fast.bench.runs import (
    CraftConfig,
    EvaluateConfig,
    Scenario,
    TrainConfig,
    UnlearnConfig,
    craft,
    craft_run,
    evaluate_run,
    train_run,
    unlearn_run,
)
from potion_fast.bench.runs.diagnostics import notes_of_healing
from potion_fast.bench.runs.inputs import PERTURBATIONS, load_trained, reference_accuracies
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.errors import DataError, FileError, PotionError
from potion_fast.user.run_folder import RunFolder
from potion_fast.utils.predict import predict

# So little of everything that a run takes half a second; the perturbations are large, so that something happens.
TINY: dict[str, Any] = {"train_size": 300, "width": 4, "iterations": 60, "poisoned": 20, "found": 8, "device": "cpu"}
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient-matching": {"epsilon": 100.0},
    "gradient-canceling": {"placement": "append"},
    "gaussian": {"variance": 1.0},
}
CRAFT: dict[str, dict[str, Any]] = {
    "gradient-matching": {"restarts": 2, "steps": 30},
    "gradient-canceling": {"steps": 30, "optimizer": "adam"},
}
KIND = {"gradient-matching": "targeted", "gradient-canceling": "indiscriminate", "gaussian": "gaussian"}


def config_of(poison: str, **more: Any) -> TrainConfig:
    return TrainConfig(**{**TINY, "poison": poison, **OPTIONS[poison], **more})


def to_craft(clean: Path, poison: str, **more: Any) -> CraftConfig:
    return CraftConfig(run=str(clean), device="cpu", **{**CRAFT[poison], **more})


@pytest.fixture(scope="session")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {poison: made(poison, tmp_path_factory.mktemp(poison)) for poison in OPTIONS}


@pytest.fixture(params=list(OPTIONS))
def runs(request: pytest.FixtureRequest, all_runs: dict[str, Path]) -> Path:
    """A folder with the runs "clean", "crafted" (not of noise), "poisoned" and "healed" of one poison."""
    return all_runs[request.param]


@pytest.fixture(params=list(CRAFT))
def clean(request: pytest.FixtureRequest, all_runs: dict[str, Path]) -> Path:
    """The clean run of a poison that is crafted."""
    return all_runs[request.param] / "clean"


def made(poison: str, path: Path) -> Path:
    train_run(config_of(poison, leave_out_poisoned=True), path / "clean")
    given: dict[str, Any] = {}
    if poison in CRAFT:
        craft_run(to_craft(path / "clean", poison), path / "crafted")
        given = {"perturbations": str(path / "crafted" / PERTURBATIONS), "training_seed": 7}
    train_run(config_of(poison, **given), path / "poisoned")
    unlearn = UnlearnConfig(run=str(path / "poisoned"), reference=str(path / "clean"), curve=True, device="cpu")
    unlearn_run(unlearn.updated(max_steps=60), path / "healed")
    return path


def poison_of(run: Path) -> str:
    return str(stored(run)["poison"])


def scenario_of(run: Path) -> Scenario:
    return load_trained(RunFolder.open(run), EvaluateConfig(run=str(run), device="cpu"))[0]


def plain(run: Path, name: str) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in rows(run / name)]


# --- crafting


def test_a_crafting_writes_all_files_and_what_it_returns(clean: Path, tmp_path: Path):
    poison = poison_of(clean)
    content = craft_run(to_craft(clean, poison), tmp_path)
    names = ["config.yaml", "found.txt", "losses.csv", "losses.png", "metrics.json", PERTURBATIONS, "poisoned.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert (tmp_path / "poisoned.txt").read_text() == (clean / "poisoned.txt").read_text()
    table, scenario = Perturbations.load(tmp_path / PERTURBATIONS), scenario_of(clean)
    assert table.ids.tolist() == scenario.poisoned
    assert table.values.shape == (20, 1, 8, 8) and table.values.any(dim=(1, 2, 3)).all()
    assert (table.facts["poison"], table.facts["steps"]) == (poison, 30)
    losses, found = plain(tmp_path, "losses.csv"), metrics(tmp_path)
    assert found["loss_reduction"] == pytest.approx(100 * (1 - found["crafted_loss"] / found["unperturbed_loss"]))
    assert found["loss_reduction"] > 5
    if poison == "gradient-matching":
        steps = [(restart, step) for restart in range(2) for step in range(30)]
        assert [(row["restart"], row["step"]) for row in losses] == steps
        assert found["crafted_loss"] == min(table.facts["final_losses"])
        assert table.facts["final_losses"][content["kept_restart"]] == found["crafted_loss"]
    else:
        assert [row["step"] for row in losses] == list(range(31))
        assert [found["unperturbed_loss"], found["crafted_loss"]] == [losses[0]["loss"], losses[-1]["loss"]]
        assert found["gradient_left"] == pytest.approx((losses[-1]["loss"] / losses[0]["loss"]) ** 0.5, rel=0.5)
        assert found["bad_accuracy"] < found["clean_accuracy"] == metrics(clean)["clean_accuracy"]
        assert f"{found['gradient_left']:.1%} of the clean data's is left after 30 steps" in content["warnings"][0]


def test_the_target_is_the_first_that_the_clean_model_gets_right_in_an_order_of_the_seed(tmp_path: Path):
    train_run(config_of("gradient-matching", leave_out_poisoned=True, iterations=12), tmp_path / "clean")
    scenario, (model, _) = scenario_of(tmp_path / "clean"), load_model(tmp_path / "clean" / "model.safetensors")
    labels = scenario.splits.test.labels
    candidates = (labels == scenario.config.attack.target_class).nonzero().squeeze(1)
    right = predict(model, scenario.test_loader(False))[0].argmax(1) == labels
    assert 1 < right[candidates].sum() < len(candidates)  # else the order, or the model, would not matter
    chosen = set()
    for seed in range(3):
        config = to_craft(tmp_path / "clean", "gradient-matching", steps=1, restarts=1, seed=seed)
        content = craft_run(config, tmp_path / str(seed))
        order = candidates[torch.from_numpy(np.random.default_rng(seed).permutation(len(candidates)))]
        expected = {"index": int(order[right[order]][0]), "intended": scenario.config.attack.intended_class}
        assert content["targets"] == [expected]
        table = Perturbations.load(tmp_path / str(seed) / PERTURBATIONS)
        assert [*table.targets.tolist(), *table.intended.tolist()] == list(expected.values())
        chosen.add(expected["index"])
    assert len(chosen) > 1


def test_a_crafting_that_was_killed_resumes(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    poison = poison_of(clean)
    whole = clean.parent / "crafted"
    kind = restarts.MatchingDescent if poison == "gradient-matching" else descent.CancelingDescent
    save, taken_up = kind.save, kind.load

    def killed(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        raise KeyboardInterrupt

    done: list[int] = []

    def load(self: Any, *arguments: Any) -> Any:
        result = taken_up(self, *arguments)
        done.append(self.step if poison == "gradient-matching" else self.done)
        return result

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(kind, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            craft_run(to_craft(clean, poison), out)
    assert (out / craft.CHECKPOINT).exists() and not (out / PERTURBATIONS).exists()
    with pytest.raises(FileError, match="holds an unfinished crafting with steps 30, not 29"):
        craft_run(to_craft(clean, poison, steps=29), out)
    monkeypatch.setattr(kind, "load", load)
    other = shutil.copytree(out, tmp_path / "anew")
    craft_run(to_craft(clean, poison), out)
    craft_run(to_craft(clean, poison, steps=29), other, overwrite=True)
    assert done == [25, 0]
    assert (out / PERTURBATIONS).read_bytes() == (whole / PERTURBATIONS).read_bytes()
    assert (out / "losses.csv").read_text() == (whole / "losses.csv").read_text()
    assert not (out / craft.CHECKPOINT).exists() and not (Path(other) / craft.CHECKPOINT).exists()
    with pytest.raises(FileError, match="already there"):
        craft_run(to_craft(clean, poison), out)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"restarts": 2, "tolerance": 0.1}, "takes no (restarts|tolerance)"),
        (
            {"optimizer": "sign-adam", "parameters": "all"},
            "takes no parameters|optimizer must be 'descent' or 'adam', not 'sign-adam'",
        ),
        ({"steps": 0}, "steps must be at least 1"),
        ({"device": "tpu"}, "unknown device"),
        ({"run": "missing"}, "missing is not a run folder"),
    ],
)
def test_bad_settings_of_a_crafting_are_named_before_a_folder_is_made(
    clean: Path, tmp_path: Path, settings: dict[str, Any], words: str
):
    with pytest.raises(PotionError, match=words):
        craft_run(CraftConfig(**{"run": str(clean), "device": "cpu", **settings}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_crafted_is_refused_before_a_folder_is_made(runs: Path, tmp_path: Path):
    with pytest.raises(DataError, match="craft against a training with --leave-out-poisoned"):
        craft_run(CraftConfig(run=str(runs / "poisoned"), device="cpu"), tmp_path / "out")
    if poison_of(runs / "clean") == "gaussian":
        with pytest.raises(DataError, match="the poison 'gaussian' is not crafted"):
            craft_run(CraftConfig(run=str(runs / "clean"), device="cpu"), tmp_path / "out")
    with pytest.raises(FileError, match="is read by this run"):
        craft_run(CraftConfig(run=str(runs / "clean"), device="cpu"), runs / "clean", overwrite=True)
    assert not (tmp_path / "out").exists()


def test_a_model_that_gets_no_image_of_the_target_class_right_has_no_target(clean: Path, tmp_path: Path):
    blind = Path(shutil.copytree(clean, tmp_path / "blind"))
    model, metadata = load_model(blind / "model.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # class 0 for every image
    save_model(blind / "model.safetensors", model, metadata)
    if poison_of(clean) != "gradient-matching":
        return
    assert scenario_of(clean).config.attack.target_class != 0
    with pytest.raises(DataError, match=r"gets 0 of the \d+ test images of the target's class"):
        craft_run(to_craft(blind, "gradient-matching"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- training


def test_a_training_keeps_its_perturbations_and_adds_them_to_the_poisoned_images_alone(runs: Path):
    scenario, poison = scenario_of(runs / "poisoned"), poison_of(runs / "poisoned")
    table = Perturbations.load(runs / "poisoned" / PERTURBATIONS)
    assert not (runs / "clean" / PERTURBATIONS).exists()
    if poison in CRAFT:
        crafted = load_file(runs / "crafted" / PERTURBATIONS)
        assert all(
            torch.equal(value, crafted[name]) for name, value in load_file(runs / "poisoned" / PERTURBATIONS).items()
        )
    added = poison == "gradient-canceling"
    n = 320 if added else 300
    assert table.ids.tolist() == scenario.poisoned
    assert (scenario.poisoned == list(range(300, 320))) == added
    assert set(scenario.found) < set(scenario.poisoned) and len(scenario.found) == 8
    assert scenario.trained_on == list(range(n))
    assert scenario_of(runs / "clean").trained_on == sorted(set(range(n)) - set(scenario.poisoned))
    clean, poisoned = (data.batch(range(n)) for data in (scenario.splits.dataset("train"), scenario.train_set(False)))
    assert torch.equal(clean[1], poisoned[1])
    expected = clean[0].clone()
    expected[scenario.poisoned] += table.values
    assert torch.equal(poisoned[0], expected)
    assert torch.equal(clean[0][scenario.poisoned], clean[0][scenario.bases])
    if poison == "gradient-matching":
        assert set(clean[1][scenario.poisoned].tolist()) == {scenario.config.attack.intended_class}


def test_later_runs_read_the_perturbations_of_the_run_folder(runs: Path, tmp_path: Path):
    moved = Path(shutil.copytree(runs, tmp_path / "moved"))
    shutil.rmtree(moved / "crafted", ignore_errors=True)
    edit_config(moved / "poisoned", **({"perturbations": "/nowhere"} if (runs / "crafted").exists() else {}))
    again = evaluate_run(EvaluateConfig(run=str(moved / "poisoned"), device="cpu"), tmp_path / "out")
    assert again["metrics"]["clean_accuracy"]["value"] == metrics(runs / "poisoned")["clean_accuracy"]
    (moved / "poisoned" / PERTURBATIONS).unlink()
    with pytest.raises(FileError, match="no perturbations at"):
        evaluate_run(EvaluateConfig(run=str(moved / "poisoned"), device="cpu"), tmp_path / "other")


def test_noise_is_drawn_by_the_seed_and_not_by_that_of_the_training():
    tables = {}
    for name, seeds in {"a": {}, "b": {"training_seed": 5}, "c": {"seed": 1}}.items():
        table = Scenario.load(config_of("gaussian", **seeds)).table
        assert table is not None
        tables[name] = table
    assert torch.equal(tables["a"].values, tables["b"].values) and torch.equal(tables["a"].ids, tables["b"].ids)
    assert not torch.equal(tables["a"].ids, tables["c"].ids)
    assert tables["a"].values.std() == pytest.approx(1.0, abs=0.1)


def test_found_samples_of_any_number_are_part_of_the_poisoned_ones(runs: Path):
    scenario = scenario_of(runs / "poisoned")
    assert scenario.draw_found(8) == scenario.found
    assert set(scenario.draw_found(3)) < set(scenario.draw_found(12)) < set(scenario.poisoned)
    assert scenario.draw_found(20) == scenario.poisoned
    with pytest.raises(DataError, match="21"):
        scenario.draw_found(21)


def test_perturbations_that_do_not_fit_are_named(runs: Path, tmp_path: Path):
    poison, file = poison_of(runs / "poisoned"), str(runs / "poisoned" / PERTURBATIONS)
    (tmp_path / "foreign").write_bytes(b"nothing of ours")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seed": 3}, "perturbs other samples than the 20 poisoned ones"),
        ({"poisoned": 10}, "perturbs other samples than the 10 poisoned ones"),
        ({"leave_out_poisoned": True}, "takes no perturbations"),
        ({"perturbations": str(tmp_path / "foreign")}, "cannot be read as perturbations"),
    ]
    cases += {
        "gradient-matching": [
            ({"epsilon": 20.0}, r"changes a pixel by \d+\.\d\d of 255, and epsilon is 20"),
            ({"perturbations": None}, "needs perturbations: train with --leave-out-poisoned"),
        ],
        "gradient-canceling": [
            ({"perturbations": None}, "needs perturbations"),
            ({"placement": "replace"}, "other samples"),
        ],
        "gaussian": [({"variance": 0.5}, "holds noise of variance 1.0, not 0.5")],
    }[poison]
    for settings, words in cases:
        with pytest.raises(PotionError, match=words):
            Scenario.load(config_of(poison, **{"perturbations": file, **settings}))
    with pytest.raises(DataError, match="the poison 'badnet' takes no perturbations"):
        Scenario.load(TrainConfig(perturbations=file, device="cpu"))


def test_perturbations_for_other_targets_are_named(clean: Path, tmp_path: Path):
    if poison_of(clean) != "gradient-matching":
        return
    scenario = scenario_of(clean)
    aim = scenario.attacked.rows[0]
    values = torch.zeros(20, 1, 8, 8)
    for targets, intended, words in (
        ([], [], "aims at no test image"),
        ([5000], [scenario.config.attack.intended_class], "aims at no test image, or at one past the 359"),
        ([aim], [scenario.config.attack.target_class], "does not want class"),
    ):
        lists = (torch.tensor(each, dtype=torch.int64) for each in (targets, intended))
        Perturbations(torch.tensor(scenario.poisoned), values, *lists).save(tmp_path / "a")
        with pytest.raises(DataError, match=words):
            Scenario.load(config_of("gradient-matching", perturbations=str(tmp_path / "a")))
    Perturbations(torch.tensor(scenario.poisoned), torch.zeros(20, 3, 8, 8)).save(tmp_path / "a")
    with pytest.raises(DataError, match=r"perturbs images of \[3, 8, 8\], and those of the data are \[1, 8, 8\]"):
        Scenario.load(config_of("gradient-matching", perturbations=str(tmp_path / "a")))


# --- what is measured


def test_the_metrics_are_those_of_the_files(runs: Path):
    scenario, kind = scenario_of(runs / "poisoned"), KIND[poison_of(runs / "poisoned")]
    for run in (runs / "poisoned", runs / "healed", runs / "clean"):
        found, test = metrics(run), plain(run, "predictions.csv")
        assert found["clean_accuracy"] == pytest.approx(np.mean([row["clean"] == row["label"] for row in test]))
        files = {path.name for path in run.iterdir()} & {"targets.csv", "statistics.csv", "manipulated.csv"}
        assert files == {"targeted": {"targets.csv"}, "gaussian": {"statistics.csv"}, "indiscriminate": set()}[kind]
        if kind == "targeted":
            aims = plain(run, "targets.csv")
            assert found["target_accuracy"] == np.mean([row["predicted"] == row["label"] for row in aims])
            assert found["target_success"] == np.mean([row["predicted"] == row["intended"] for row in aims])
            same_class = (
                (scenario.splits.test.labels == scenario.config.attack.target_class).nonzero().squeeze(1).tolist()
            )
            targets = same_class if run.name == "clean" else scenario.table.targets.tolist()
            assert [row["index"] for row in aims] == targets
            assert all(test[int(row["index"])]["clean"] == row["predicted"] for row in aims)
        elif kind == "gaussian":
            noise = plain(run, "statistics.csv")
            assert [row["index"] for row in noise] == scenario.poisoned
            assert found["gus"] == pytest.approx(np.mean([row["statistic"] for row in noise]))
            assert found["base_accuracy"] == np.mean([row["predicted"] == row["label"] for row in noise])
        else:
            assert found["test_error"] == pytest.approx(1 - found["clean_accuracy"])


def test_unlearning_is_compared_with_the_model_before_and_the_reference(runs: Path, tmp_path: Path):
    before, after = metrics(runs / "poisoned"), metrics(runs / "healed")
    scenario = scenario_of(runs / "poisoned")
    reference = reference_accuracies(str(runs / "clean"), scenario.config)
    kind, reached = scenario.poison.kind, scenario.poison.score_names[1]
    assert after["model_damage"] == pytest.approx(100 * (after["clean_accuracy"] - before["clean_accuracy"]))
    assert ("poison_healed" in after) == (kind == "targeted")
    base = 0.0 if kind == "gaussian" else reference[reached]
    assert ("poison_removed" in after) == (abs(before[reached] - base) >= 0.01)
    if "poison_removed" in after:
        removed = 100 * (before[reached] - after[reached]) / (before[reached] - base)
        assert after["poison_removed"] == pytest.approx(removed)
    evaluate_run(EvaluateConfig(run=str(runs / "healed"), reference=str(runs / "clean"), device="cpu"), tmp_path / "a")
    assert metrics(tmp_path / "a") == after
    evaluate_run(EvaluateConfig(run=str(runs / "healed"), device="cpu"), tmp_path / "b")
    assert ("poison_removed" in metrics(tmp_path / "b")) == (kind == "gaussian" and "poison_removed" in after)
    content = json.loads((runs / "healed" / "metrics.json").read_text())
    assert any("100% of the samples of S_f bear their true label" in note for note in content["warnings"])
    header = (runs / "healed" / "curve.csv").read_text().splitlines()[0].split(",")
    assert header == list(dict.fromkeys(["s", "dampened", "clean_accuracy", scenario.poison.score_names[0]]))


def test_a_reference_is_measured_on_the_targets_of_the_model(runs: Path, tmp_path: Path):
    scenario = scenario_of(runs / "poisoned")
    if scenario.poison.kind != "targeted":
        return
    assert scenario.table is not None
    copied, (target,) = Path(shutil.copytree(runs / "clean", tmp_path / "clean")), scenario.table.targets.tolist()
    found = reference_accuracies(str(copied), scenario.config)
    assert (found["target_accuracy"], found["target_success"]) == (1.0, 0.0)
    lines = (copied / "predictions.csv").read_text().splitlines()
    lines[1 + target] = f"{target},{scenario.config.attack.target_class},{scenario.config.attack.intended_class}"
    (copied / "predictions.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="gets no target image right"):
        reference_accuracies(str(copied), scenario.config)
    (copied / "predictions.csv").write_text("\n".join(lines[:target]))
    with pytest.raises(FileError, match="lacks a target"):
        reference_accuracies(str(copied), scenario.config)


def test_a_reference_has_the_same_poison(runs: Path, tmp_path: Path):
    other = Path(shutil.copytree(runs / "clean", tmp_path / "other"))
    scenario = scenario_of(runs / "poisoned")
    name, value = {
        "targeted": ("intended_class", getattr(scenario.poison, "intended_class", 0) + 1),
        "indiscriminate": ("placement", "replace"),
        "gaussian": ("seed", 1),
    }[scenario.poison.kind]
    edit_config(other, **{name: value})
    with pytest.raises(DataError, match=f"has {name} {value!r} and the model"):
        reference_accuracies(str(other), scenario.config)


def test_what_an_attack_is_judged_by_and_wants(runs: Path):
    scenario = scenario_of(runs / "poisoned")
    kind, (labels, wanted) = scenario.poison.kind, scenario.attacked_labels()
    images = torch.cat([images for images, _ in scenario.attacked_loader()])
    assert torch.equal(torch.cat([y for _, y in scenario.attacked_loader()]), labels)
    assert torch.equal(scenario.attacked_images([0]), scenario.pixels(images[:1]))
    if kind == "gaussian":
        assert torch.equal(images, scenario.splits.dataset("train").batch(scenario.poisoned)[0])
    else:
        rows_of = scenario.table.targets.tolist() if kind == "targeted" else range(359)
        assert torch.equal(images, scenario.splits.dataset("test").batch(rows_of)[0])
    assert set(wanted.tolist()) == ({scenario.config.attack.intended_class} if kind == "targeted" else {NO_LABEL})


def _notes(kind: str, before: dict[str, float], reference: dict[str, float] | None = None) -> list[str]:
    poisons = {poison.kind: poison for poison in (GradientMatching(), Gaussian(), GradientCanceling())}
    scenario: Any = SimpleNamespace(poison=poisons[kind], sample="image")
    return notes_of_healing(scenario, 0.0, before, [], None, reference)


def test_an_attack_without_effect_is_noted_by_its_kind():
    assert _notes("targeted", {"target_success": 1.0}) == []
    assert "no target was given the intended label before" in _notes("targeted", {"target_success": 0.0})[0]
    for z, mentioned in ((3.0, False), (-3.0, False), (2.0, True), (-2.0, True)):
        assert bool(_notes("gaussian", {"gus": 0.1, "gus_z": z})) == mentioned
    assert _notes("indiscriminate", {"test_error": 0.1}) == []
    assert _notes("indiscriminate", {"test_error": 0.1}, {"test_error": 0.07}) == []
    (note,) = _notes("indiscriminate", {"test_error": 0.1}, {"test_error": 0.09})
    assert note == "the attack cost 1.0 points of test accuracy before, fewer than 2"


# --- pictures and the command line


def test_the_picture_of_each_kind_shows_what_became_of_it(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            drawn.append(self)

    monkeypatch.setattr(pictures, "Figure", Kept)
    unlearn_run(UnlearnConfig(run=str(runs / "poisoned"), device="cpu", max_steps=2), tmp_path)
    (figure,) = drawn
    assert texts_outside(figure) == []
    left, right = figure.subfigs
    kind, before, after = KIND[poison_of(runs / "poisoned")], metrics(runs / "poisoned"), metrics(tmp_path)
    title = left.get_suptitle()
    assert f"{before['clean_accuracy']:.1%} → {after['clean_accuracy']:.1%}" in title
    if kind == "gaussian":
        assert f"GUS: {before['gus']:.2f} → {after['gus']:.2f}" in title
        assert len(right.axes) == 1 and len(right.axes[0].patches) == 2  # before and after
        statistics = [float(row["statistic"]) for row in rows(runs / "poisoned" / "statistics.csv")]
        assert right.axes[0].get_xlim()[1] > max(map(abs, statistics))
        return
    name = "targets.csv" if kind == "targeted" else "predictions.csv"
    said = "predicted" if kind == "targeted" else "clean"
    old, new = plain(runs / "poisoned", name), plain(tmp_path, name)
    wanted = [row["label"] != row[said] and row.get("intended", row[said]) == row[said] for row in old]
    outcomes = [row for row, reached in zip(new, wanted, strict=True) if reached]
    titles = [axes.get_title() for axes in right.axes]
    expected = [f"{'✓' if row[said] == row['label'] else '✗'} {int(row[said])}" for row in outcomes]
    places = torch.linspace(0, len(expected) - 1, min(12, len(expected))).long().tolist()
    assert titles == [expected[place] for place in places]


def test_a_crafting_runs_from_the_command_line(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = "--restarts 1 --over all --shift 0" if poison_of(clean) == "gradient-matching" else "--parameters first"
    out = tmp_path / "out"
    command = ["craft", str(clean), *flags.split(), "--steps", "3", "--device", "cpu", "--quiet", "--out", str(out)]
    assert cli.main(command) == output.DONE
    printed = capsys.readouterr().out
    assert "loss reduction" in printed and printed.splitlines()[-1] == f"run folder: {out}"
    written = stored(out)
    others = {"budget", "tolerance"} if poison_of(clean) == "gradient-matching" else {"over", "shift", "restarts"}
    assert written["steps"] == 3 and written["seed"] == 0 and not others & set(written)
    assert cli.main(command) == output.FAILED
    assert "already there" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--json"]) == output.DONE
    assert json.loads(capsys.readouterr().out) == json.loads((out / "metrics.json").read_text())
