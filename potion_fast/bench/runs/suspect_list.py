"""The suspects of a run: read from a list that a user edited, written, counted and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...detection import Suspects
from ...errors import DataError
from ...user import suspect_sheet as sheet
from ..data.text import TextSplits
from .inputs import listed_samples
from .scenario import Scenario


def read_suspects(path: str, scenario: Scenario) -> Suspects:
    """The suspects of a list, by their indices in the run's training set.

    Args:
        path: of a suspects.csv, perhaps edited, or of a list of indices as `read_indices` takes it.
        scenario: the data.

    Raises:
        DataError: as `Suspects.load` and `read_indices` raise it; the list is one of other data, holds no suspect, or
            one that the model was not trained on.
        FileError: it cannot be read.
    """
    labels = scenario.train_set(augment=False).labels
    try:
        if Path(path).suffix.lower() == ".csv":
            suspects = Suspects.load(path)
        else:
            listed, notes = listed_samples(path, scenario)
            suspects = replace(Suspects.of_indices(listed), warnings=tuple(notes))
        suspects = suspects.checked(labels)
    except DataError as error:
        if path in str(error):
            raise
        raise DataError(f"{path}: {error}") from error
    if not len(suspects):
        raise DataError(f"{path} holds no suspect; leave it out to have them sought")
    classes = len(scenario.splits.classes)
    if suspects.proposed is not None and int(suspects.proposed.max()) >= classes:
        raise DataError(f"{path} proposes the label {int(suspects.proposed.max())}, and there are {classes} classes")
    check_trained_on(scenario, suspects.indices.tolist(), "suspects")
    return replace(suspects, found=suspects.found[:0], fits=suspects.fits[:0])  # the run's own S_f counts


def check_trained_on(scenario: Scenario, indices: list[int], name: str) -> None:
    """Raise DataError for a sample that the model was not trained on."""
    if missing := sorted(set(indices) - set(scenario.trained_on)):
        raise DataError(f"sample {missing[0]} of the {name} is not among those the model was trained on")


def moved(suspects: Suspects, places: Tensor) -> Suspects:
    """The same suspects in another numbering of the samples: sample i is sample places[i] there."""
    return replace(
        suspects, indices=places[suspects.indices], found=places[suspects.found], below=places[suspects.below]
    )


def file_names(scenario: Scenario) -> list[str] | None:
    """The file of each training image, from the folder of the data where it lies in it; None where there are none."""
    source, root = scenario.splits.train, scenario.config.root
    paths = [source.path(index) for index in range(len(source))]
    if None in paths:
        return None
    return [str(p.relative_to(root) if root is not None and p.is_relative_to(root) else p) for p in paths if p]


def counts(scenario: Scenario, suspects: Suspects) -> dict[str, int]:
    """What metrics.json says of the suspects, measured against S_m, which the bench knows.

    Returns:
        The number of suspects, of the clean ones among them, of the samples of S_m that were not found ("hidden"), of
        those of them that are suspects, of the labels that were proposed, and of the right ones.
    """
    poisoned, clean = set(scenario.poisoned), scenario.splits.train.labels
    listed, found = set(suspects.indices.tolist()), set(suspects.found.tolist())
    proposed = torch.full_like(suspects.indices, -1) if suspects.proposed is None else suspects.proposed
    labelled = proposed >= 0
    return {
        "suspects": len(listed),
        "clean": len(listed - poisoned),
        "hidden": len(poisoned - found),
        "hidden_suspects": len((poisoned - found) & listed),
        "labelled": int(labelled.sum()),
        "labels_right": int((proposed == clean[suspects.indices])[labelled].sum()),
    }


def draw_suspects(path: Path, scenario: Scenario, suspects: Suspects) -> None:
    """Draw the contact sheet of the suspects; nothing of texts."""
    if isinstance(scenario.splits, TextSplits):
        return
    dataset = scenario.train_set(augment=False)
    names = [name.strip() for name in scenario.splits.classes]
    sheet.draw_suspects(
        path, suspects, lambda indices: scenario.pixels(dataset.batch(indices)[0]), dataset.labels, names
    )
