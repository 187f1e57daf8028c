"""The healing of a training run, into a run folder of its own."""

from __future__ import annotations

import os
import warnings
from dataclasses import astuple, fields, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from ...detection import Suspects
from ...errors import DataError, PotionWarning
from ...finetuning import Evaluation
from ...healing import heal
from ...healing_result import HealResult
from ...user.run_folder import RunFolder
from ...user.suspect_sheet import labels_for
from ..attacks import Scores
from ..configs import HealConfig
from ..figures.side_by_side import draw_side_by_side
from ..models import save_model
from ..training.train import seed_everything
from .diagnostics import notes_of_healing
from .evaluations import compared, evaluated, write_evaluation
from .inputs import (
    check_out,
    listed_samples,
    load_trained,
    load_weights,
    metrics_of,
    reference_accuracies,
    training_run,
)
from .scenario import Scenario
from .side_by_side import ComparedModel, class_columns, class_rows
from .stages import write_metrics
from .suspect_list import check_trained_on, counts, draw_suspects, file_names, moved, read_suspects


def heal_run(
    config: HealConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Heal the model of a training run from the poisoned samples that were found, and evaluate it.

    Writes config.yaml, found.txt (S_f), model.safetensors, suspects.csv, suspects.png (of images), trace.csv, the files
    of `write_evaluation`, metrics.json, classes.csv and healing.png. The method is `heal`.

    Args:
        config: of the healing.
        out: run folder.
        overwrite: whether an earlier run there may go.
        progress: show progress bars.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: the training, the reference or the unlearning run, the data, the found samples or the suspects do not
            fit together; the model was trained without the poison.
        FileError: a run or a file is missing or broken.
        PotionError: as `heal` raises it.
    """
    config = config.resolved()
    check_out(out, overwrite, config.run, config.reference, config.dampened, config.root)
    trained = RunFolder.open(config.run)
    scenario, before = load_trained(trained, config)
    if scenario.config.leave_out_poisoned:
        raise DataError(
            f"{config.run} was trained without the poison (--leave-out-poisoned): there is nothing to heal; give the "
            "run of the poisoned model, and this one as --reference"
        )
    reference = None if config.reference is None else reference_accuracies(config.reference, scenario.config)
    models = _others(config, trained, scenario, before, reference)
    found, notes_of_list = listed_samples(config.found or trained / "found.txt", scenario)
    found.sort()
    check_trained_on(scenario, found, "found samples")
    given = None if config.suspects is None else read_suspects(config.suspects, scenario)
    config = config.updated(batch_size=config.batch_size or scenario.config.batch_size)
    model, metadata = load_weights(trained, scenario, config.device)

    run = RunFolder.create(out, overwrite)
    run.write_config("heal", config.to_dict())
    run.write_indices("found.txt", found)
    seed_everything(config.seed)
    result = _healed(model, scenario, config, found, given, progress)
    save_model(run / "model.safetensors", result.model, metadata)
    proposed = labels_for(result.suspects, result.labels)
    suspects = moved(replace(result.suspects, proposed=proposed), torch.tensor(scenario.trained_on))
    suspects.save(run / "suspects.csv", files=file_names(scenario))
    run.write_csv("trace.csv", [field.name for field in fields(Evaluation)], map(astuple, result.trace))

    evaluation = evaluated(result.model, scenario, progress)
    write_evaluation(run, scenario, evaluation)
    metrics = {**evaluation.metrics, **compared(scenario, evaluation, config.run, before, config.reference, reference)}
    notes = notes_of_healing(scenario, metrics["model_damage"].value, before, found, None, reference)
    healing = {name: value for name, value in result.summary().items() if name != "warnings"}  # among the notes
    more = {"healing": healing, "suspects": counts(scenario, suspects), "found": len(found)}
    content = write_metrics(run, metrics, [*notes_of_list, *result.warnings, *notes], more | scenario.facts)

    models.insert(len(models) - (reference is not None), ComparedModel.of_evaluation("healed", evaluation))
    run.write_csv("classes.csv", class_columns(scenario), class_rows(scenario, models))
    draw_side_by_side(run / "healing.png", scenario, models, {name: metric.unit for name, metric in metrics.items()})
    draw_suspects(run / "suspects.png", scenario, suspects)
    return content


def _others(
    config: HealConfig, trained: RunFolder, scenario: Scenario, before: Scores, reference: Scores | None
) -> list[ComparedModel]:
    """The models that are shown beside the healed one, from their runs.

    Raises:
        DataError: the unlearning run is one of another training.
        FileError: a run is broken.
    """
    models = [ComparedModel.of_run("poisoned", trained, scenario, before)]
    if config.dampened is not None:
        run = RunFolder.open(config.dampened)
        run.read_config("unlearn")
        if (theirs := training_run(run).path) and os.path.realpath(theirs) != os.path.realpath(trained.path):
            raise DataError(f"{run.path} was unlearnt from {theirs}, not from {trained.path}; leave --dampened out")
        models.append(ComparedModel.of_run("dampened", run, scenario, metrics_of(run, scenario.config.poison)))
    if config.reference is not None and reference is not None:
        models.append(ComparedModel.of_run("never poisoned", RunFolder.open(config.reference), scenario, reference))
    return models


def _healed(
    model: nn.Module,
    scenario: Scenario,
    config: HealConfig,
    found: list[int],
    suspects: Suspects | None,
    progress: bool,
) -> HealResult:
    """What `heal` makes of the model; its indices count the samples that the model was trained on."""
    places = torch.full((len(scenario.splits.train),), -1)
    places[scenario.trained_on] = torch.arange(len(scenario.trained_on))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)  # the result contains them, and so does metrics.json
        return heal(
            model,
            _loader(scenario, config, augment=True),
            places[found],
            suspects=None if suspects is None else moved(suspects, places),
            plain_set=_loader(scenario, config, augment=False) if scenario.config.augment else None,
            validation=Subset(scenario.splits.dataset("train"), scenario.validation) if scenario.validation else None,
            rate=config.rate,
            labels=config.labels,
            max_damage=config.max_damage,
            amp=None if config.amp is None else getattr(torch, config.amp),
            compiled=config.compiled,
            seed=config.seed,
            progress=progress,
        )


def _loader(scenario: Scenario, config: HealConfig, *, augment: bool) -> DataLoader[Any]:
    """The samples that the model was trained on, with batch size and workers; not shuffled, `heal` reads by index."""
    dataset = Subset(scenario.train_set(augment=augment), scenario.trained_on)
    return DataLoader(dataset, batch_size=config.batch_size, num_workers=config.workers)
