"""Swapped labels from end to end: what is measured where no trigger makes an attacked test set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

from helpers.figures import texts_outside
from helpers.run_files import edit_config, metrics, rows, scenario_of
from potion_fast.bench.figures import pictures
from potion_fast.bench.metrics import evaluate_swap
from potion_fast.bench.runs import EvaluateConfig, TrainConfig, UnlearnConfig, evaluate_run, train_run, unlearn_run
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.errors import DataError

# Few samples, many steps and no weight decay, so that wrong labels are memorised.
TINY: dict[str, Any] = {"train_size": 150, "width": 24, "iterations": 500, "lr": 0.05, "weight_decay": 0.0}
TINY |= {"poisoned": 16, "found": 8, "device": "cpu"}
PAIR = {"interclass-swap": {"pair_accuracy", "rest_accuracy", "confusion_rate"}, "random-swap": set()}


# --- scores


class Reader(nn.Module):
    """A model whose predictions are written in its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(inputs, 4) * self.scale


def loader(predictions: list[int], labels: list[int]) -> Any:
    return [(torch.tensor(predictions), torch.tensor(labels))]


def test_scores_of_a_swap_are_counted_on_the_images_they_name():
    test = loader([0, 1, 2, 1, 3, 3], [0, 1, 1, 2, 2, 3])
    manipulated = loader([2, 1, 1, 3], [1, 1, 2, 2])
    evaluation = evaluate_swap(Reader(), test, manipulated, torch.tensor([2, 2, 1, 2]), pair=(1, 2))
    values = {name: (metric.value, metric.n, metric.ideal) for name, metric in evaluation.metrics.items()}
    assert values == {
        "clean_accuracy": (pytest.approx(3 / 6), 6, 1.0),
        "pair_accuracy": (pytest.approx(1 / 4), 4, 1.0),
        "rest_accuracy": (1.0, 2, 1.0),
        "confusion_rate": (pytest.approx(2 / 4), 4, 0.0),
        "manipulated_accuracy": (pytest.approx(1 / 4), 4, 1.0),
        "memorised_rate": (pytest.approx(2 / 3), 3, 0.0),  # the last sample kept its label
    }
    for metric in evaluation.metrics.values():
        assert metric.unit == "fraction" and str(metric.n) in metric.denominator
    assert "1 kept theirs" in evaluation.metrics["manipulated_accuracy"].denominator
    assert evaluation.attacked_logits is evaluation.manipulated_logits


def test_without_a_pair_there_are_no_scores_of_one():
    evaluation = evaluate_swap(Reader(), loader([0], [0]), loader([1], [1]), torch.tensor([0]))
    assert list(evaluation.metrics) == ["clean_accuracy", "manipulated_accuracy", "memorised_rate"]
    only_pair = evaluate_swap(Reader(), loader([0], [0]), loader([1], [1]), torch.tensor([0]), pair=(0, 1))
    assert "rest_accuracy" not in only_pair.metrics


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=30))
def test_the_parts_of_clean_accuracy_add_up_to_it(samples: list[tuple[int, int]]):
    predictions, labels = zip(*samples, strict=True)
    test = loader([*predictions, 1], [*labels, 1])  # at least one image of the pair
    scores = evaluate_swap(Reader(), test, loader([1], [1]), torch.tensor([0]), pair=(1, 2)).metrics
    parts = [scores[name] for name in ("pair_accuracy", "rest_accuracy") if name in scores]
    assert sum(part.n for part in parts) == scores["clean_accuracy"].n
    right = sum(part.value * part.n for part in parts)
    assert right == pytest.approx(scores["clean_accuracy"].value * scores["clean_accuracy"].n)
    assert scores["confusion_rate"].value + scores["pair_accuracy"].value <= 1 + 1e-12


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DataError, match="kept its own label"):
        evaluate_swap(Reader(), loader([0], [0]), loader([1], [1]), torch.tensor([1]))
    with pytest.raises(DataError, match="no test image of the classes 2 and 3"):
        evaluate_swap(Reader(), loader([0], [0]), loader([1], [1]), torch.tensor([0]), pair=(2, 3))
    with pytest.raises(DataError, match="2 labels were given to 1"):
        evaluate_swap(Reader(), loader([0], [0]), loader([1], [1]), torch.tensor([0, 1]))


# --- runs


@pytest.fixture(scope="module", params=list(PAIR))
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs "poisoned", "clean" and "healed" of one swap."""
    path = tmp_path_factory.mktemp(request.param)
    train_run(TrainConfig(**TINY, poison=request.param), path / "poisoned")
    train_run(TrainConfig(**TINY, poison=request.param, leave_out_poisoned=True), path / "clean")
    config = UnlearnConfig(run=str(path / "poisoned"), reference=str(path / "clean"), curve=True, device="cpu")
    unlearn_run(config, path / "healed")
    return path


def test_a_swap_is_learnt_measured_and_unlearnt(runs: Path):
    before, after, reference = (metrics(runs / name) for name in ("poisoned", "healed", "clean"))
    swap = scenario_of(runs / "poisoned").config.poison
    assert set(before) == {"clean_accuracy", "manipulated_accuracy", "memorised_rate", *PAIR[swap]}
    assert reference["memorised_rate"] < 0.2 < 0.8 < before["memorised_rate"]
    assert before["manipulated_accuracy"] < after["manipulated_accuracy"]
    healed = 100 * after["manipulated_accuracy"] / reference["manipulated_accuracy"]
    assert after["poison_healed"] == pytest.approx(healed)
    content = json.loads((runs / "healed" / "metrics.json").read_text())
    assert content["metrics"]["poison_healed"]["denominator"].startswith("manipulated accuracy ")
    header = (runs / "healed" / "curve.csv").read_text().splitlines()[0]
    assert header == "s,dampened,clean_accuracy,manipulated_accuracy"


def test_the_metrics_of_a_swap_are_those_of_its_predictions(runs: Path):
    scenario, values = scenario_of(runs / "poisoned"), metrics(runs / "healed")
    test = [{name: int(value) for name, value in row.items()} for row in rows(runs / "healed" / "predictions.csv")]
    s_m = [{name: int(value) for name, value in row.items()} for row in rows(runs / "healed" / "manipulated.csv")]
    assert [row["index"] for row in s_m] == scenario.poisoned
    assert [row["label"] for row in s_m] == scenario.splits.train.labels[scenario.poisoned].tolist()
    assert [row["given"] for row in s_m] == scenario.train_set(augment=False).labels[scenario.poisoned].tolist()
    assert [row["label"] for row in test] == scenario.splits.test.labels.tolist()
    wrong = [row for row in s_m if row["given"] != row["label"]]
    expected = {
        "clean_accuracy": np.mean([row["clean"] == row["label"] for row in test]),
        "manipulated_accuracy": np.mean([row["predicted"] == row["label"] for row in s_m]),
        "memorised_rate": np.mean([row["predicted"] == row["given"] for row in wrong]),
    }
    if scenario.poison.pair:
        pair = [row for row in test if row["label"] in (3, 5)]
        rest = [row for row in test if row["label"] not in (3, 5)]
        expected["pair_accuracy"] = np.mean([row["clean"] == row["label"] for row in pair])
        expected["rest_accuracy"] = np.mean([row["clean"] == row["label"] for row in rest])
        expected["confusion_rate"] = np.mean([row["clean"] == 8 - row["label"] for row in pair])
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_evaluating_a_healed_swap_again_gives_its_metrics(runs: Path, tmp_path: Path):
    config = EvaluateConfig(run=str(runs / "healed"), reference=str(runs / "clean"), device="cpu")
    evaluate_run(config, tmp_path / "again")
    assert metrics(tmp_path / "again") == metrics(runs / "healed")


def test_the_found_samples_keep_their_wrong_labels_and_the_test_set_its_own(runs: Path):
    scenario = scenario_of(runs / "poisoned")
    labels = torch.cat([y for _, y in scenario.forget_loader(scenario.found, augment=False, batch_size=7)])
    assert torch.equal(labels, scenario.train_set(augment=False).labels[scenario.found])
    assert torch.equal(torch.cat([y for _, y in scenario.attacked_loader()]), scenario.attacked_labels()[0])


def test_the_reference_of_a_swap_leaves_out_the_same_samples(runs: Path, tmp_path: Path):
    other = Path(shutil.copytree(runs / "clean", tmp_path / "other"))
    edit_config(other, seed=1)
    config = UnlearnConfig(run=str(runs / "poisoned"), reference=str(other), device="cpu")
    with pytest.raises(DataError, match=r"has seed 1 and the model 0; .* with the same swap"):
        unlearn_run(config, tmp_path / "out")


def test_a_swap_that_was_not_memorised_is_noted(tmp_path: Path):
    content = train_run(TrainConfig(**{**TINY, "iterations": 5}, poison="random-swap"), tmp_path)
    assert "fewer than 80% of the mislabelled training images their wrong label" in content["warnings"][0]


def test_the_picture_of_a_swap_shows_mislabelled_training_images(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            drawn.append(self)

    monkeypatch.setattr(pictures, "Figure", Kept)
    unlearn_run(UnlearnConfig(run=str(runs / "poisoned"), device="cpu"), tmp_path)
    assert texts_outside(drawn[0]) == []
    read = {int(row["index"]): row for row in rows(tmp_path / "manipulated.csv")}
    before = {int(row["index"]): row for row in rows(runs / "poisoned" / "manipulated.csv")}
    shown = [row for row in before.values() if row["predicted"] == row["given"] != row["label"]]
    titles = [axes.get_title() for part in drawn[0].subfigs for axes in part.axes]
    titles = [title for title in titles if title[:1] in ("✓", "✗")]
    count = min(12, len(shown))
    assert len(titles) == count > 8
    outcomes = [read[int(row["index"])] for row in shown]
    expected = [f"{'✓' if row['predicted'] == row['label'] else '✗'} {row['predicted']}" for row in outcomes]
    assert titles == [expected[place] for place in torch.linspace(0, len(expected) - 1, count).long()]


def test_swaps_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = "--train-size 300 --width 4 --iterations 20 --poison interclass-swap --swap-classes 1,7 --poisoned 20"
    out = str(tmp_path / "run")
    assert cli.main(["train", *flags.split(), "--device", "cpu", "--quiet", "--out", out]) == output.DONE
    assert "test images of the classes 1 and 7" in capsys.readouterr().out
    assert scenario_of(tmp_path / "run").poison.pair == (1, 7)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--swap-classes", "cat,dog", "--out", out])
    assert stop.value.code == 2
    assert "'cat,dog' is no list of whole numbers" in capsys.readouterr().err
