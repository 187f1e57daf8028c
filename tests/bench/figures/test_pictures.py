import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from helpers.figures import kept_figures, texts_outside
from potion_fast.bench.attacks import ATTACKS, KINDS
from potion_fast.bench.figures import pictures
from potion_fast.bench.metrics import Metric, PoisonEvaluation
from potion_fast.bench.runs import Scenario, TrainConfig
from potion_fast.bench.runs.tradeoff import Point
from potion_fast.errors import FileError
from potion_fast.search import Step

BEFORE = {"clean_accuracy": 0.99, "triggered_accuracy": 0.1, "attack_success_rate": 1.0}
PIXELS = (round(pictures.SIZE[0] * pictures.DPI), round(pictures.SIZE[1] * pictures.DPI))
CURVE = [Point(1.0, 10**k, 0.9, 0.1 * k) for k in range(9)]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.load(TrainConfig(device="cpu"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn."""
    return kept_figures(monkeypatch, pictures)


def draw(path: Path, scenario: Scenario, steps: list[tuple[int, float]], redirected: int, curve: Any = None) -> None:
    """A picture after these (dampened, accuracy) steps, with so many test images that the poison had redirected."""
    labels = scenario.splits.test.labels
    before, after = (torch.nn.functional.one_hot(labels, 10).float() for _ in range(2))
    rows = (labels != 0).nonzero().squeeze(1)[:redirected]
    before[rows] = torch.eye(10)[0]
    after[rows[::2]] = torch.eye(10)[0]  # half of them are healed
    accuracies = {"clean_accuracy": 0.98, "triggered_accuracy": 0.7, "attack_success_rate": 0.1}
    metrics = {name: Metric(name, value, "fraction", len(labels), 1.0) for name, value in accuracies.items()}
    trace = [Step(i, 1.0, 99.0, 2.0, accuracy, dampened, 0.1) for i, (dampened, accuracy) in enumerate(steps, start=1)]
    result: Any = SimpleNamespace(
        trace=trace, kept=trace[-1] if trace else None, reason="threshold passed", initial_accuracy=1.0
    )
    evaluation = PoisonEvaluation(after, after, labels, metrics)
    pictures.draw_healing(path, scenario, result, BEFORE, before, evaluation, curve)


@pytest.mark.parametrize(
    ("steps", "redirected", "curve"),
    [
        ([], 30, None),
        ([(0, 0.1)], 0, None),
        ([(7, 0.1)], 1, []),
        ([(7, 0.5), (9, 0.1)], 12, None),
        ([(10**k, 1 - 0.1 * k) for k in range(9)], 300, CURVE),
    ],
    ids=["no step", "a step without effect", "one step", "two steps", "a curve over 8 decades"],
)
def test_every_search_gives_a_png_of_the_same_size_with_no_text_cut_off(
    tmp_path: Path, scenario: Scenario, figures: list[Figure], steps: Any, redirected: int, curve: Any
):
    draw(tmp_path / "healing.png", scenario, steps, redirected, curve)
    with Image.open(tmp_path / "healing.png") as image:
        assert image.format == "PNG"
        assert image.size == PIXELS
        assert len(np.unique(np.asarray(image.convert("L")))) > 10  # something is drawn
    assert texts_outside(figures[0]) == []


def test_class_names_are_shortened_and_never_read_as_mathematics(
    tmp_path: Path, scenario: Scenario, figures: list[Figure]
):
    names = ("a$_^{$ lorry", *(f"n0144076{label}_tench_tinca_tinca" for label in range(1, 10)))
    draw(tmp_path / "a.png", replace(scenario, splits=replace(scenario.splits, classes=names)), [(7, 0.1)], 300)
    shown = "\n".join(text.get_text() for text in figures[0].findobj(Text))
    assert "the poisoned model says “a$_^{$ lorry”" in shown
    assert re.search("✓ n0144076[1-9]_te…\n", shown)
    assert texts_outside(figures[0]) == []
    boxes = [axes.title.get_window_extent() for axes in figures[0].subfigs[1].axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes[: pictures.COLUMNS]))


def test_marks_say_which_images_the_healed_model_gets_right(tmp_path: Path, scenario: Scenario, figures: list[Figure]):
    draw(tmp_path / "a.png", scenario, [(7, 0.1)], 12)
    titles = [axes.get_title() for part in figures[0].subfigs for axes in part.axes]
    titles = [title for title in titles if title[:1] in ("✓", "✗")]
    labels = scenario.splits.test.labels
    rows = (labels != 0).nonzero().squeeze(1)[:12].tolist()
    assert titles == ["✗ 0" if place % 2 == 0 else f"✓ {int(labels[row])}" for place, row in enumerate(rows)]


def test_the_images_come_from_all_over_the_test_set(tmp_path: Path, scenario: Scenario, figures: list[Figure]):
    order = scenario.splits.test.labels.sort().indices  # as in a folder: class after class
    test = type(scenario.splits.test)(scenario.splits.test.images(order), scenario.splits.test.labels[order])
    draw(tmp_path / "a.png", replace(scenario, splits=replace(scenario.splits, test=test)), [(7, 0.1)], 1000)
    titles = {axes.get_title()[2:] for part in figures[0].subfigs for axes in part.axes if axes.get_title()[:1] == "✓"}
    assert len(titles) > 3


def test_colour_images_are_drawn_too(tmp_path: Path, scenario: Scenario):
    class Colour:
        labels = scenario.splits.test.labels

        def __len__(self) -> int:
            return len(self.labels)

        def images(self, indices: Any) -> torch.Tensor:
            return scenario.splits.test.images(indices).expand(-1, 3, -1, -1).contiguous()

    source: Any = Colour()
    splits = replace(scenario.splits, test=source, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    draw(tmp_path / "a.png", replace(scenario, splits=splits), [(7, 0.1)], 12)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == PIXELS


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_of_a_kind_and_has_captions_for_whatever_it_poisons(name: str):
    attack = ATTACKS[name]
    assert issubclass(attack, KINDS[attack.kind])
    of_images, of_reviews = (asdict(object.__new__(attack).captions.of(sample)) for sample in ("image", "review"))
    assert of_reviews == {place: text.replace("image", "review") for place, text in of_images.items()}
    assert "{sample}" not in "".join(of_images.values())


def test_a_picture_that_cannot_be_written_is_a_file_error(tmp_path: Path, scenario: Scenario):
    with pytest.raises(FileError, match="missing"):
        draw(tmp_path / "missing" / "a.png", scenario, [(7, 0.1)], 12)
