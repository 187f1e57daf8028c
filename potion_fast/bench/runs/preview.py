"""What a poison does to images, or texts, and labels: a picture, or the texts, before anything is trained."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from ...errors import PotionError
from ...utils.atomic_files import written_whole
from ..configs import TrainConfig
from ..data.text import TextSplits
from ..figures.pictures import DPI, MUTED, TITLE, TRIGGERED, short, show
from ..figures.reviews import read_by_model
from .folder import RunFolder
from .inputs import check_out
from .scenario import Scenario

MOST = 12  # images side by side
COLUMNS = 100  # characters of a line of text
SIDE, MARGIN, NARROWEST = 1.45, 1.35, 5.0  # inches: of an image, left of the first, and of a title


def preview_run(
    config: TrainConfig, out: str | os.PathLike[str], *, images: int = 6, overwrite: bool = False
) -> dict[str, Any]:
    """Draw some poisoned training images: clean, poisoned, and what changed, with the label they had and have.

    Of perturbed ones what changed is the perturbation itself, and comes before the sum. Of texts it is written what the
    model reads. They are S_m's, evenly spaced: none is picked for its looks. Writes config.yaml, poisoned.txt (S_m),
    found.txt (S_f) and preview.png, or of texts preview.txt; returns the indices and labels that are shown.

    Raises PotionError unless 1 <= images <= 12, and the errors of `Scenario.load` and `RunFolder`.
    """
    if not 1 <= images <= MOST:
        raise PotionError(f"images must be from 1 to {MOST}, not {images}")
    check_out(out, overwrite, config.root)
    scenario = Scenario.load(config)
    places = torch.linspace(0, len(scenario.poisoned) - 1, min(images, len(scenario.poisoned))).long().tolist()
    rows = [scenario.poisoned[place] for place in places]
    clean, labels = scenario.splits.dataset("train").batch(rows)
    poisoned, given = scenario.train_set(augment=False).batch(rows)
    shown = [
        {"index": index, "label": label, "given": wrong}
        for index, label, wrong in zip(rows, labels.tolist(), given.tolist(), strict=True)
    ]

    run = RunFolder.create(out, overwrite)
    run.write_config("preview", {**scenario.config.data_part(), "images": images})
    run.write_indices("poisoned.txt", scenario.poisoned)
    run.write_indices("found.txt", scenario.found)
    of_texts = isinstance(scenario.splits, TextSplits)
    if of_texts:
        run.write_text("preview.txt", _reviews(scenario, rows, labels, given))
    else:
        with written_whole(run / "preview.png") as temporary:
            figure = _draw(scenario, rows, image_rows(scenario, places, clean, poisoned), labels, given)
            figure.savefig(temporary, format="png", dpi="figure")
    return {
        "shown": shown,
        "poisoned": len(scenario.poisoned),
        "found": len(scenario.found),
        "file": "preview.txt" if of_texts else "preview.png",
    }


def image_rows(
    scenario: Scenario,
    places: list[int],  # [B] of S_m
    clean: Tensor,  # [B, C, H, W] normalised
    poisoned: Tensor,  # [B, C, H, W]
) -> dict[str, Tensor]:  # of [B, C, H, W] pixels in [0, 1]
    """What stands in each row, by its name: the images before and after, and how they differ, where they do."""
    before, after = scenario.pixels(clean), scenario.pixels(poisoned)
    if scenario.table is None:
        rows = {"clean,\nits own label": before, "poisoned,\nthe label given": after}
        return {**rows, **_magnified("difference", after - before)}
    std = torch.tensor(scenario.splits.std).view(-1, 1, 1)
    changes = _magnified("perturbation", scenario.table.values[places] * std)
    return {"clean,\nits own label": before, **changes, "their sum,\nthe label given": after}


def _magnified(name: str, changes: Tensor) -> dict[str, Tensor]:
    """The largest change of all images is drawn black or white; empty where there is none."""
    largest = changes.abs().max().item()
    return {f"{name} × {1 / (2 * largest):.2g}\n(grey: none)": changes / (2 * largest) + 0.5} if largest else {}


def draw_rows(figure: Figure | SubFigure, rows: dict[str, Tensor]) -> dict[str, list[Axes]]:
    """Images [B, C, H, W] of pixels side by side, each row with its name before it; their axes."""
    columns = len(next(iter(rows.values())))
    grid = dict(zip(rows, figure.subplots(len(rows), columns, squeeze=False).tolist(), strict=True))
    for name, line in grid.items():
        for axes, image in zip(line, rows[name], strict=True):
            show(axes, image)
        line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
    return grid


def _draw(
    scenario: Scenario,
    places: list[int],  # [B] indices
    rows: dict[str, Tensor],
    labels: Tensor,  # [B]
    given: Tensor,  # [B]
) -> Figure:
    names = scenario.splits.classes
    size = (max(NARROWEST, MARGIN + SIDE * len(places)), 0.6 + 1.15 * SIDE * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    lines = draw_rows(figure, rows)
    (poisoned,) = (line for name, line in lines.items() if name.endswith("the label given"))
    first, last = list(lines.values())[0], list(lines.values())[-1]
    for column, index in enumerate(places):
        color = MUTED if labels[column] == given[column] else TRIGGERED
        first[column].set_title(short(names[labels[column]]), fontsize=9, pad=3, parse_math=False)
        poisoned[column].set_title(f"“{short(names[given[column]])}”", fontsize=9, pad=3, color=color, parse_math=False)
        last[column].set_xlabel(f"image {index}", fontsize=8, color=MUTED)
    share = f"{len(scenario.poisoned):,} of {len(scenario.splits.train):,} training images"
    figure.suptitle(f"{scenario.config.poison}: {share}", fontsize=TITLE)
    return figure


def _reviews(
    scenario: Scenario,
    rows: list[int],  # [B] indices
    labels: Tensor,  # [B]
    given: Tensor,  # [B]
) -> str:
    """What is poisoned and how, and then each review with its labels."""
    lines = [f"{scenario.config.poison}: {len(scenario.poisoned):,} of {len(scenario.splits.train):,} training reviews"]
    lines += scenario.poison.preview_lines(scenario.facts)
    names = [name.strip() for name in scenario.splits.classes]
    texts = read_by_model(scenario, rows)
    for index, label, wrong, text in zip(rows, labels.tolist(), given.tolist(), texts, strict=True):
        lines += ["", f"review {index}: label {names[label]}, given {names[wrong]}", *textwrap.wrap(text, COLUMNS)]
    return "\n".join(lines) + "\n"
