"""Earlier runs that a run starts from: found, read and checked before anything is done."""

from __future__ import annotations

import csv
import math
import os
import warnings
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ...errors import DataError, FileError, ModelError, PotionError, PotionWarning
from ...user.run_folder import CONFIG, RunFolder
from ...user.schema import Schema
from ..attacks import ATTACKS, Perturbations, Poison, Scores
from ..configs import CraftConfig, EvaluateConfig, HealConfig, TrainConfig, UnlearnConfig
from ..configs.defaults import TEXT
from ..configs.find import FindConfig
from ..data import read_indices
from ..models import load_model
from ..models.registry import FOREIGN
from .scenario import Scenario

PERTURBATIONS = "perturbations.safetensors"  # what a model was trained on, in its run folder; what a crafting made

# What a reference must share with the model that is measured against it: the attacked images.
SAME_TEST = ("data", "image_size", "mean", "std", "length", "poison")  # and the options of the attack
SAME_MANIPULATED = ("train_size", "poisoned", "seed")  # and S_m itself, where the attack is judged by it

Config = TypeVar("Config", bound=Schema)


def check_out(out: str | os.PathLike[str], overwrite: bool, *read: str | os.PathLike[str] | None) -> None:
    """Check that a run may be written to a folder.

    Args:
        out: the folder.
        overwrite: whether an earlier run there may go.
        *read: folders that the run reads.

    Raises:
        FileError: the folder is taken, or read by the run.
    """
    for path in read:
        if path is not None and os.path.realpath(path) == os.path.realpath(out):
            raise FileError(f"{out} is read by this run and cannot be its folder too; choose another folder")
    RunFolder.check_free(out, overwrite)


def training_run(run: RunFolder) -> RunFolder:
    """The training run that a run's model comes from: for a training run itself.

    Raises:
        FileError: it is gone.
    """
    command = run.read_config("train", "unlearn", "heal")[0]
    if command == "train":
        return run
    path = (_config(run, UnlearnConfig, command) if command == "unlearn" else _config(run, HealConfig, command)).run
    if not os.path.exists(path):
        done = {"unlearn": "unlearnt", "heal": "healed"}[command]
        raise FileError(f"{run.path} was {done} from the training run {path}, which is not there; move it back")
    return RunFolder.open(path)


def load_trained(
    run: RunFolder, config: UnlearnConfig | HealConfig | EvaluateConfig | CraftConfig | FindConfig
) -> tuple[Scenario, Scores]:
    """A training run's data, and the metrics of its model.

    Perturbations are those of the run folder.

    Args:
        run: the training run.
        config: of a later run: where the data are, and the device.

    Returns:
        The data, and the metrics by name.

    Raises:
        FileError: the run is broken or unfinished.
        DataError: the data are not those of the training.
    """
    stored = _config(run, TrainConfig, "train")
    for flag, trained, typed in (("data", stored.data, config.data), ("model", stored.model, config.model)):
        if trained is not None and _is_code(trained) and trained != typed:
            raise DataError(
                f"{run.path} was trained on {trained!r}, code that would be imported and run; if you trust it, name it "
                f"yourself (--{flag})"
            )
        if typed is not None and typed != trained:
            raise DataError(f"{run.path} was trained on {trained!r}, not on {typed!r}; leave --{flag} out")
    stored = stored.updated(root=config.root or stored.root, device=config.device, workers=config.workers)
    attack = ATTACKS.get(stored.poison)
    if attack is not None and attack.takes_perturbations and not stored.leave_out_poisoned:
        stored = stored.updated(perturbations=str(run / PERTURBATIONS))
    scenario = Scenario.load(stored)
    if read_indices(run / "poisoned.txt", len(scenario.splits.train)) != scenario.poisoned:
        raise DataError(f"{run / 'poisoned.txt'} and the data disagree: these are not the data of the training")
    return scenario, metrics_of(run, scenario.config.poison)


def listed_samples(path: str | Path, scenario: Scenario) -> tuple[list[int], list[str]]:
    """Samples of the training set that a user listed, in his order.

    Args:
        path: of the list, or the indices themselves, see `read_indices`; files of images are named as they lie.
        scenario: the data.

    Returns:
        Their indices, and what deserves a note, as sentences.

    Raises:
        DataError: as `read_indices` raises it.
    """
    source = scenario.splits.train
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PotionWarning)
        listed = read_indices(path, len(source), source.path)
    return listed, [str(warning.message) for warning in caught]


def _is_code(name: str) -> bool:
    """Whether a data set or a model is a module:factory of the user's."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind not in FOREIGN


def load_weights(run: RunFolder, scenario: Scenario, device: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a run and its file's metadata. A module:factory runs where `load_trained` let its name pass.

    Args:
        run: that has the model.
        scenario: its data.
        device: that the model is moved to.

    Raises:
        FileError: the file is broken.
        ModelError: the model is broken, or made for other classes.
    """
    model, metadata = load_model(run / "model.safetensors", scenario.config.model)
    if metadata.get("classes") != list(scenario.splits.classes):
        raise ModelError(f"the model of {run.path} knows other classes than the data; were the data changed?")
    return model.to(device), metadata


def reference_accuracy(path: str | None, trained: TrainConfig) -> float | None:
    """Accuracy of a reference run on the attacked images; None without one. Raises as `reference_accuracies` does."""
    return None if path is None else reference_accuracies(path, trained)[ATTACKS[trained.poison].score_names[0]]


def reference_accuracies(path: str, trained: TrainConfig) -> Scores:
    """Metrics of a reference run's model. Those of targets are of the targets that `trained` has.

    Args:
        path: of the reference run.
        trained: configuration of the model that is compared with it.

    Raises:
        DataError: it is no reference, has other attacked images than `trained`, or gets none of them right.
    """
    run = RunFolder.open(path)
    config = _config(run, TrainConfig, "train")
    if not config.leave_out_poisoned:
        raise DataError(f"{path} was trained with poisoned samples; a reference is trained with --leave-out-poisoned")
    attack = ATTACKS[trained.poison]
    theirs, ours = config.to_dict(), trained.to_dict()
    for name in (
        *SAME_TEST,
        *type(trained.attack).model_fields,
        *(SAME_MANIPULATED if attack.judged_on_training else ()),
    ):
        if theirs.get(name) != ours.get(name):
            raise DataError(
                f"the reference {path} has {name} {theirs.get(name)!r} and the model {ours.get(name)!r}; "
                f"train the reference on the same data with the same {attack.attack_word}"
            )
    accuracies = dict(metrics_of(run, config.poison))
    if trained.perturbations is not None:
        accuracies |= _of_table(run, attack, Perturbations.load(trained.perturbations))
    if attack.gives_labels and not accuracies[attack.score_names[0]] > 0:
        sample = attack.attacked_sample.format(sample="review" if trained.data in TEXT else "image")
        raise DataError(f"the reference {path} gets no {sample} right; nothing can be measured against it")
    return accuracies


def _of_table(run: RunFolder, attack: type[Poison], table: Perturbations) -> Scores:
    """What a training run's model says of what perturbations aim at, from predictions.csv.

    Raises:
        FileError: the file is missing, broken, or lacks a target.
    """

    def predictions() -> dict[int, tuple[int, int]]:
        with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
            return {int(row["index"]): (int(row["label"]), int(row["clean"])) for row in csv.DictReader(file)}

    try:
        return attack.reference_scores(table, predictions)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise FileError(f"{run / 'predictions.csv'} cannot be read, or lacks a target: {error}") from error


def _config(run: RunFolder, kind: type[Config], command: str) -> Config:
    try:
        return kind.from_dict(run.read_config(command)[1])
    except FileError:
        raise
    except PotionError as error:
        raise FileError(f"{run / CONFIG}: {error}") from error


def metrics_of(run: RunFolder, poison: str) -> Scores:
    """The metrics of a run's model, by name.

    Args:
        run: a finished one.
        poison: the attack that it was judged by.

    Raises:
        FileError: it is unfinished or broken.
    """
    if not (run / "metrics.json").exists():
        raise FileError(f"{run.path} holds no metrics.json: the run was not finished; do it again with --overwrite")
    content = run.read_json("metrics.json")
    needed = ("clean_accuracy", *ATTACKS[poison].score_names)
    try:
        values = {name: metric["value"] for name, metric in content["metrics"].items()}
        scores = {name: float(values[name]) for name in needed}
        scores |= {name: float(value) for name, value in values.items() if value is not None}
        if not all(map(math.isfinite, scores.values())):
            raise ValueError("a metric is not finite")
        return scores
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileError(f"{run / 'metrics.json'} does not hold the metrics of a training run") from error
