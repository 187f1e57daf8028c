from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.figures import kept_figures, texts_in_each_other
from potion_fast.bench.figures import side_by_side
from potion_fast.bench.figures.side_by_side import COLUMNS, ROWS, draw_side_by_side
from potion_fast.bench.runs import Scenario, TrainConfig
from potion_fast.bench.runs.side_by_side import NAMES, ComparedModel

UNITS = dict.fromkeys(["clean_accuracy", "triggered_accuracy", "attack_success_rate"], "fraction")


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.load(TrainConfig(device="cpu"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn."""
    return kept_figures(monkeypatch, side_by_side)


def models(scenario: Scenario, names: tuple[str, ...] = NAMES) -> list[ComparedModel]:
    """The poisoned model says 0 of every triggered image, the dampened one of every second, the others of none."""
    labels = scenario.splits.test.labels
    halved = torch.where(torch.arange(len(labels)) % 2 == 0, 0, labels)
    said = {"poisoned": torch.zeros_like(labels), "dampened": halved}
    scores = {"clean_accuracy": 1.0, "triggered_accuracy": 0.0, "attack_success_rate": 0.987}
    return [ComparedModel(name, labels, said.get(name, labels), scores) for name in names]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("names", [NAMES, ("poisoned", "healed")])
def test_no_text_is_cut_off_or_lies_in_another(
    tmp_path: Path, scenario: Scenario, figures: list[Figure], names: tuple[str, ...]
):
    classes = ("a$_^{$ lorry", *(f"N0144076{label}_TENCH" for label in range(1, 10)))
    named = replace(scenario, splits=replace(scenario.splits, classes=classes))
    draw_side_by_side(tmp_path / "a.png", named, models(scenario, names), UNITS)
    assert texts_in_each_other(figures[0]) == []
    shown = texts(figures[0])
    assert {"clean accuracy, %", "attack success rate, %", "98.7", *names} <= set(shown)
    assert shown.count("98.7") == len(names)


def test_under_each_image_stands_what_each_model_says_of_it(tmp_path: Path, scenario: Scenario, figures: list[Figure]):
    draw_side_by_side(tmp_path / "a.png", scenario, models(scenario), UNITS)
    labels = scenario.splits.test.labels
    rows = (labels != 0).nonzero().squeeze(1)
    rows = rows[torch.linspace(0, len(rows) - 1, ROWS * COLUMNS).long()].tolist()
    images = [axes for axes in figures[0].findobj(side_by_side.Axes) if axes.images]
    said = [[text.get_text() for text in axes.texts if text.get_text()[:1] in "✓✗"] for axes in images]
    right = [f"✓ {int(labels[row])}" for row in rows]
    assert [marks[0] for marks in said] == ["✗ 0"] * len(rows)
    assert [marks[1] for marks in said] == [
        "✗ 0" if row % 2 == 0 else mark for row, mark in zip(rows, right, strict=True)
    ]
    assert [marks[2] for marks in said] == [marks[3] for marks in said] == right


def test_scores_that_are_no_fractions_and_scores_that_are_not_known_have_no_bar(
    tmp_path: Path, scenario: Scenario, figures: list[Figure]
):
    known, unknown = models(scenario, ("poisoned", "never poisoned"))
    others = replace(unknown, scores={"clean_accuracy": 0.5})
    draw_side_by_side(tmp_path / "a.png", scenario, [known, others], {**UNITS, "triggered_accuracy": "deviations"})
    shown = texts(figures[0])
    assert "triggered accuracy, %" not in shown
    assert (shown.count("98.7"), shown.count("50.0")) == (1, 1)


def test_an_attack_that_reaches_no_image_is_said_to(tmp_path: Path, scenario: Scenario, figures: list[Figure]):
    labels = scenario.splits.test.labels
    draw_side_by_side(tmp_path / "a.png", scenario, [ComparedModel("poisoned", labels, labels, {})], UNITS)
    assert any("the poisoned model gives no triggered test image" in text for text in texts(figures[0]))
