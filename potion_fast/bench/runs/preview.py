"""Previews of a poison: what it does to images, or texts, and labels, before anything is trained."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import torch
from torch import Tensor

from ...errors import PotionError
from ...user.run_folder import RunFolder
from ..configs import TrainConfig
from ..data.text import TextSplits
from ..figures.preview import draw_preview, image_rows
from ..figures.reviews import read_by_model
from .inputs import check_out
from .scenario import Scenario

MOST = 12  # images side by side
COLUMNS = 100  # characters of a line of text


def preview_run(
    config: TrainConfig, out: str | os.PathLike[str], *, images: int = 6, overwrite: bool = False
) -> dict[str, Any]:
    """Draw some poisoned training images: clean, poisoned, and what changed, with the label they had and have.

    Of perturbed ones what changed is the perturbation itself, and comes before the sum. Of texts it is written what the
    model reads. They are S_m's, evenly spaced: none is hand-picked. Writes config.yaml, poisoned.txt (S_m),
    found.txt (S_f) and preview.png, or of texts preview.txt.

    Args:
        config: of the training.
        out: run folder.
        images: number of samples that are shown, from 1 to 12.
        overwrite: whether an earlier run there may go.

    Returns:
        The indices and labels that are shown.

    Raises:
        PotionError: another number of images, and the errors of `Scenario.load` and `RunFolder`.
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
        {"index": index, "label": label, "given": given_label}
        for index, label, given_label in zip(rows, labels.tolist(), given.tolist(), strict=True)
    ]

    run = RunFolder.create(out, overwrite)
    run.write_config("preview", {**scenario.config.data_part(), "images": images})
    scenario.write_indices(run)
    of_texts = isinstance(scenario.splits, TextSplits)
    if of_texts:
        run.write_text("preview.txt", _reviews(scenario, rows, labels, given))
    else:
        drawn = image_rows(scenario, places, clean, poisoned)
        draw_preview(run / "preview.png", scenario, rows, drawn, labels, given)
    return {
        "shown": shown,
        "poisoned": len(scenario.poisoned),
        "found": len(scenario.found),
        "file": "preview.txt" if of_texts else "preview.png",
    }


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
    for index, label, given_label, text in zip(rows, labels.tolist(), given.tolist(), texts, strict=True):
        lines += ["", f"review {index}: label {names[label]}, given {names[given_label]}"]
        lines += textwrap.wrap(text, COLUMNS)
    return "\n".join(lines) + "\n"
