"""Models side by side: what each says of the test samples and of those that the attack is judged by."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError, FileError
from ...user.run_folder import RunFolder
from ..attacks import Scores
from ..metrics import Evaluation
from .scenario import Scenario

NAMES = ("poisoned", "dampened", "healed", "never poisoned")  # in the order in which they are shown


@dataclass(frozen=True)
class ComparedModel:
    """A model's predictions and scores.

    Attributes:
        name: one of NAMES.
        clean: int64 [N], of the test samples.
        attacked: int64 [M], of the samples that the attack is judged by; None where a run was judged by others.
        scores: by name.
    """

    name: str
    clean: Tensor
    attacked: Tensor | None
    scores: Scores

    @classmethod
    def of_run(cls, name: str, run: RunFolder, scenario: Scenario, scores: Scores) -> ComparedModel:
        """What an earlier run wrote of its model.

        Raises:
            FileError: its predictions are missing or broken.
            DataError: they are predictions of other test samples.
        """
        test = _columns(run, "predictions.csv", ("label", "clean"), scenario)
        if test["label"] != scenario.splits.test.labels.tolist():
            raise DataError(f"{run.path} was evaluated on other test {scenario.sample}s; compare runs on the same data")
        return cls(name, torch.tensor(test["clean"]), _attacked(run, scenario, test), scores)

    @classmethod
    def of_evaluation(cls, name: str, evaluation: Evaluation) -> ComparedModel:
        """What an evaluation has just found."""
        scores = {name: metric.value for name, metric in evaluation.metrics.items()}
        return cls(name, evaluation.clean_logits.argmax(1), evaluation.attacked_logits.argmax(1), scores)


def _attacked(run: RunFolder, scenario: Scenario, test: dict[str, list[int]]) -> Tensor | None:
    """Predictions for the attacked samples, in their order."""
    name = scenario.poison.attacked_file
    if name is None:
        return torch.tensor(test.get("triggered", test["clean"]))
    if not (run / name).exists():
        return None
    rows = _columns(run, name, ("index", "predicted"), scenario)
    return torch.tensor(rows["predicted"]) if rows["index"] == list(scenario.attacked.rows) else None


def _columns(run: RunFolder, name: str, needed: Sequence[str], scenario: Scenario) -> dict[str, list[int]]:
    """The columns of a run's predictions that hold whole numbers."""
    classes = range(len(scenario.splits.classes))
    try:
        with (run / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("it is empty")
        wanted = [column for column in (*needed, "triggered") if column in needed or column in rows[0]]
        columns = {column: [int(row[column]) for row in rows] for column in wanted}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise FileError(f"{run / name} cannot be read ({error}); evaluate the run again") from error
    for column, values in columns.items():
        if column != "index" and any(value not in classes for value in values):
            raise FileError(f"{run / name} has predictions of a class that is not there; evaluate the run again")
    return columns


def class_columns(scenario: Scenario) -> list[str]:
    """The header of classes.csv: without accuracy on attacked samples where those are the clean ones."""
    attacked = scenario.poison.score_names[0]
    columns = ["model", "class", "name", "n", "clean_accuracy"]
    return columns if attacked in columns else [*columns, "n_attacked", attacked]


def class_rows(scenario: Scenario, models: Sequence[ComparedModel]) -> Iterator[list[object]]:
    """A row for each model and class; accuracies in [0, 1], empty where the class has no sample or is not known."""
    labels, (attacked_labels, _) = scenario.splits.test.labels, scenario.attacked_labels()
    with_attacked = len(class_columns(scenario)) > 5
    for model in models:
        for label, name in enumerate(scenario.splits.classes):
            attacked = _accuracy(model.attacked, attacked_labels, label) if with_attacked else ()
            yield [model.name, label, name.strip(), *_accuracy(model.clean, labels, label), *attacked]


def _accuracy(
    predictions: Tensor | None,  # [N]
    labels: Tensor,  # [N]
    label: int,
) -> tuple[int, float | str]:
    """How many samples have this label, and the share of them that are given it."""
    own = labels == label
    n = int(own.sum())
    if predictions is None or not n:
        return n, ""
    return n, round(float((predictions[own] == label).double().mean()), 6)
