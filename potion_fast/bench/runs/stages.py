"""The stages of a run, each into a run folder of its own: train, unlearn, evaluate.

All that a run is given and reads is checked before its folder is made, and what was expensive is written as soon as it
is there: a later failure costs nothing that came before it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, fields
from typing import Any

import torch
from torch import nn

from ...errors import DataError, PotionWarning
from ...importances import PassOptions
from ...modes import mode_named
from ...search import Result, SearchOptions, Step
from ...search.members import PLACES, wrong_members_note
from ...unlearning import unlearn
from ...user.run_folder import RunFolder, strict
from ...utils.predict import accuracy, predict
from ..configs import EvaluateConfig, TrainConfig, UnlearnConfig
from ..figures.pictures import draw_healing
from ..metrics import Evaluation, Metric
from ..models import save_model
from ..training.train import Epoch, seed_everything, train
from .architecture import architecture, fresh_model, loss_of
from .diagnostics import notes_of_healing, notes_of_training
from .evaluations import attacked_outputs, compared, evaluated, write_evaluation
from .inputs import (
    PERTURBATIONS,
    check_out,
    listed_samples,
    load_trained,
    load_weights,
    reference_accuracies,
    training_run,
)
from .scenario import Scenario
from .tradeoff import curve_columns, trade_off

TRAINING = ("iterations", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule")  # settings of `train`

__all__ = ["Evaluation", "evaluate_run", "evaluated", "notes_of_healing", "train_run", "unlearn_run"]


def train_run(
    config: TrainConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Train a model on poisoned data (or, with `leave_out_poisoned`, on the same data without S_m) and evaluate it.

    Writes config.yaml, poisoned.txt (S_m), found.txt (S_f), perturbations.safetensors where S_m is perturbed,
    training.csv, model.safetensors, the files of `write_evaluation`, and metrics.json.

    Args:
        config: of the training.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        PotionError: as `Scenario.load`, `create_model`, `train` and `RunFolder` raise it.
    """
    check_out(out, overwrite, config.root)
    scenario = Scenario.load(config)
    config, splits = scenario.config, scenario.splits
    loader, selection = scenario.train_loader(), _selection(scenario)
    assert config.training_seed is not None  # resolved
    seed_everything(config.training_seed)
    model = fresh_model(config, splits)
    model.to(config.device)

    run = RunFolder.create(out, overwrite)
    run.write_config("train", config.to_dict())
    scenario.write_indices(run)
    if scenario.table is not None and not config.leave_out_poisoned:
        scenario.table.save(run / PERTURBATIONS)
    settings: dict[str, Any] = {name: getattr(config, name) for name in TRAINING}
    settings["keep"] = "last" if config.keep == "last" else "best"
    report = train(model, loader, **settings, loss=loss_of(config), evaluate=selection, progress=progress)
    save_model(run / "model.safetensors", model, architecture(config, splits))
    epochs = [(number, *astuple(epoch)) for number, epoch in enumerate(report.epochs, start=1)]
    run.write_csv("training.csv", ["epoch", *(field.name for field in fields(Epoch))], epochs)

    evaluation = _evaluate(run, model, scenario, progress)
    notes = notes_of_training(scenario, {name: metric.value for name, metric in evaluation.metrics.items()})
    more = {"seconds": report.seconds, "kept_epoch": report.kept + 1}
    return write_metrics(run, evaluation.metrics, notes, more | scenario.facts)


def unlearn_run(
    config: UnlearnConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Heal the model of a training run from the poisoned samples that were found, and evaluate it.

    Writes config.yaml, found.txt (S_f), forget.safetensors and retain.safetensors (importances), trace.csv,
    model.safetensors, the files of `write_evaluation`, metrics.json, with `curve` curve.csv, and healing.png; returns
    the content of metrics.json. The method is `unlearn`; each step's result is on disk before the next.

    Raises the errors of `unlearn`, `read_indices` and `RunFolder`; DataError or FileError where the training or the
    reference run, the data or the forget set do not fit together.
    """
    config = config.resolved()
    mode = mode_named(config.mode)
    check_out(out, overwrite, config.run, config.reference, config.root)
    trained = RunFolder.open(config.run)
    scenario, before = load_trained(trained, config)
    reference = None if config.reference is None else reference_accuracies(config.reference, scenario.config)
    found, notes_of_list = listed_samples(config.forget or trained / "found.txt", scenario)
    found.sort()
    if missing := sorted(set(found) - set(scenario.trained_on)):
        raise DataError(f"sample {missing[0]} of the forget set is not among those the model was trained on")
    size = config.batch_size or scenario.config.batch_size
    groups = mode.group_size_for(len(found)) if config.group_size is None else config.group_size
    config = config.updated(batch_size=size, group_size=groups)
    retain_loader = scenario.retain_loader(
        found, holds_forget=mode.retain_holds_forget, batch_size=size, seed=config.seed
    )
    forget_loader = scenario.forget_loader(found, augment=True, batch_size=size)
    evaluation_loader = scenario.forget_loader(found, augment=mode.augmented_forget, batch_size=size)
    model, metadata = load_weights(trained, scenario, config.device)

    run = RunFolder.create(out, overwrite)
    run.write_config("unlearn", config.to_dict())
    run.write_indices("found.txt", found)
    seed_everything(config.seed)
    amp = None if config.amp is None else getattr(torch, config.amp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)  # the result contains them, and so does metrics.json
        result = unlearn(
            model,
            retain_loader,
            forget_loader,
            config.objective,
            group_size=config.group_size,
            w=config.w,
            passes=PassOptions(amp=amp, compiled=config.compiled, samples=config.samples, progress=progress),
            search=SearchOptions.of(config),
            evaluation_loader=evaluation_loader,
            clean_loader=None if config.max_damage is None else scenario.clean_loader(found, seed=config.seed),
            on_importance=lambda name, importance: importance.save(run / f"{name}.safetensors"),
        )
    save_model(run / "model.safetensors", result.model, metadata)
    run.write_csv("trace.csv", [field.name for field in fields(Step)], map(astuple, result.trace))

    evaluation = _evaluate(run, result.model, scenario, progress)
    metrics = {**evaluation.metrics, **compared(scenario, evaluation, config.run, before, config.reference, reference)}
    search = result.summary()
    del search["warnings"]  # they stand among the notes
    without_rule = [] if result.retain is None else list(result.retain.fallback)
    more = {"search": search, "found": len(found), "parameters_without_rule": without_rule}
    damage = metrics["model_damage"].value
    notes = [
        *notes_of_list,
        *_naming_indices(result, found),
        *notes_of_healing(scenario, damage, before, found, config.rho, reference),
    ]
    content = write_metrics(run, metrics, notes, more | scenario.facts)

    curve = trade_off(model, result, scenario, progress) if config.curve else None
    if curve is not None:
        columns = curve_columns(scenario)
        run.write_csv("curve.csv", columns, (astuple(point)[: len(columns)] for point in curve))
    attacked = attacked_outputs(model, scenario, progress)
    draw_healing(run / "healing.png", scenario, result, before, attacked, evaluation, curve)
    return content


def _naming_indices(result: Result, found: list[int]) -> list[str]:
    """The warnings of a search, which names members of S_f by their indices in the training data."""
    by_place = wrong_members_note(result.wrong_members, len(found), PLACES)
    by_index = wrong_members_note([found[place] for place in result.wrong_members], len(found), "with the indices")
    return [by_index if note == by_place else note for note in result.warnings]


def evaluate_run(
    config: EvaluateConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Evaluate the model of a training, a healing or an unlearning run again, against a reference run if one is given.

    Writes config.yaml, the files of `write_evaluation` and metrics.json.

    Args:
        config: of the evaluation.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: the runs or the data do not fit together.
        FileError: a run or a file is missing or broken.
    """
    config = config.resolved()
    check_out(out, overwrite, config.run, config.reference, config.root)
    source = RunFolder.open(config.run)
    trained = training_run(source)
    check_out(out, overwrite, trained.path)
    scenario, before = load_trained(trained, config)
    reference = None if config.reference is None else reference_accuracies(config.reference, scenario.config)
    model, _ = load_weights(source, scenario, config.device)

    run = RunFolder.create(out, overwrite)
    run.write_config("evaluate", config.to_dict())
    evaluation = _evaluate(run, model, scenario, progress)
    more = compared(scenario, evaluation, str(trained.path), before, config.reference, reference)
    return write_metrics(run, {**evaluation.metrics, **more}, [], scenario.facts)


def _selection(scenario: Scenario) -> Callable[[nn.Module], float] | None:
    """What is measured after every epoch: accuracy on the clean test or the validation set, where there is one."""
    if scenario.config.keep != "test" and not scenario.validation:
        return None
    loader = scenario.test_loader(False) if scenario.config.keep == "test" else scenario.validation_loader()
    return lambda model: accuracy(*predict(model, loader))


def _evaluate(run: RunFolder, model: nn.Module, scenario: Scenario, progress: bool) -> Evaluation:
    """Evaluate, and write the predictions."""
    evaluation = evaluated(model, scenario, progress)
    write_evaluation(run, scenario, evaluation)
    return evaluation


def write_metrics(
    run: RunFolder, metrics: Mapping[str, Metric], notes: list[str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write metrics.json, which says that a run is finished.

    Args:
        run: folder of the run.
        metrics: by name.
        notes: warnings, as sentences.
        more: further entries.

    Returns:
        Its content.
    """
    values = {name: asdict(metric) for name, metric in metrics.items()}
    content: dict[str, Any] = strict({"metrics": values, "warnings": notes, **more})
    run.write_json("metrics.json", content)
    return content
