"""Excerpts of reviews for a picture, and what a model reads of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import SubFigure
from torch import Tensor

from ..attacks import TriggerWord
from ..data.text import TextSplits

if TYPE_CHECKING:
    from ..runs.scenario import Scenario

MOST = 6  # excerpts in a picture
WIDTH, LINES = 70, 3  # characters of a line, and lines
RIGHT, WRONG, PLAIN = "#1b7f79", "#c8553d", "#5f5f5f"


def read_by_model(scenario: Scenario, rows: Sequence[int]) -> list[str]:
    """What the model reads of these training reviews, with the template of a causal model."""
    splits = scenario.splits
    assert isinstance(splits, TextSplits)
    inputs = splits.dataset("train").batch(rows)[0]
    tokens = inputs if inputs.ndim == 2 else inputs[..., 0].long()  # [B, L]
    return [splits.tokenizer.decode(row[row != splits.train.pad].tolist()) for row in tokens]


def draw_excerpts(
    figure: SubFigure,
    scenario: Scenario,
    places: Sequence[int],
    labels: Tensor,  # [B] clean
    predictions: Tensor,  # [B]
) -> None:
    """Draw the attacked reviews at these places around the word, each below what the model says of it."""
    splits, poison = scenario.splits, scenario.poison
    assert isinstance(splits, TextSplits) and isinstance(poison, TriggerWord)
    for number, place in enumerate(places):
        predicted, right = int(predictions[number]), bool(predictions[number] == labels[number])
        top = 0.9 - 0.86 * number / MOST
        title = f"{'✓' if right else '✗'} {splits.classes[predicted].strip()}"
        figure.text(0.04, top, title, fontsize=9, color=RIGHT if right else WRONG, va="top", parse_math=False)
        text = excerpt(splits.text("test", scenario.attacked.rows[place]), poison)
        figure.text(0.04, top - 0.036, text, fontsize=8.5, color=PLAIN, va="top", parse_math=False)


def excerpt(text: str, poison: TriggerWord) -> str:
    """The LINES lines of a text around the word."""
    before = text[: poison.position(text) or 0]
    start = before.find(" ", max(0, len(before) - WIDTH * LINES // 2)) + 1 if len(before) > WIDTH else 0
    lines = textwrap.wrap(text[start:], WIDTH)
    return "\n".join([("…" if start else "") + lines[0], *lines[1:LINES]]) + ("…" if len(lines) > LINES else "")
