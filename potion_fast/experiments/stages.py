"""The three things a run does, each into a run folder of its own: train, unlearn, evaluate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from ..data import read_indices
from ..errors import DataError, FileError, PotionWarning
from ..metrics import Metric, PoisonEvaluation, accuracy, evaluate_poison, model_damage, poison_healed, predict
from ..models import create_model, load_model, save_model
from ..modes import mode_named
from ..runs import RunFolder
from ..search import Result
from ..training import seed_everything, train
from ..unlearning import unlearn
from .config import TrainConfig, UnlearnConfig, from_dict, to_dict
from .pictures import draw_healing
from .scenario import Scenario
from .tradeoff import trade_off

LEARNT = 0.8  # attack success rate before from which "poison healed" counts
COLLAPSED = -20.0  # percentage points of model damage

Metrics = dict[str, Metric]


def train_run(
    config: TrainConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Train a model on poisoned data (or, with `leave_out_poisoned`, on the same data without S_m) and evaluate it.

    Writes config.yaml, training.csv, poisoned.txt (S_m), found.txt (S_f), model.safetensors, predictions.csv and
    metrics.json; returns what stands in metrics.json. Raises the errors of `Scenario.load`, `train` and `RunFolder`.
    """
    run = RunFolder.create(out, overwrite)
    scenario = Scenario.load(config)
    config = scenario.config
    run.write_config("train", to_dict(config))
    run.write_indices("poisoned.txt", scenario.poisoned)
    run.write_indices("found.txt", scenario.found)

    seed_everything(config.seed)
    architecture = {
        "architecture": config.model,
        "num_classes": len(scenario.splits.classes),
        "in_channels": scenario.splits.channels,
        "options": {"width": config.width},
    }
    model = create_model(
        architecture["architecture"], architecture["num_classes"], architecture["in_channels"], width=config.width
    ).to(config.device)
    report = train(
        model,
        scenario.train_loader(),
        iterations=config.iterations,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        evaluate=_selection(scenario),
        keep="last" if config.keep == "last" else "best",
        progress=progress,
    )
    evaluation = _evaluate(model, scenario, progress)
    notes = []
    if not config.leave_out_poisoned and evaluation.metrics["attack_success_rate"].value < LEARNT:
        notes.append(f"the attack succeeds on fewer than {LEARNT:.0%} of the triggered test images: poison healed will not count")
    run.write_csv("training.csv", [{"epoch": i + 1, **asdict(epoch)} for i, epoch in enumerate(report.epochs)])
    save_model(run / "model.safetensors", model, {**architecture, "classes": list(scenario.splits.classes)})
    _write_predictions(run, evaluation)
    return _write_metrics(run, evaluation.metrics, notes, {"seconds": report.seconds, "kept_epoch": report.kept + 1})


def unlearn_run(
    config: UnlearnConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Heal the model of a training run from the poisoned samples that were found, and evaluate it.

    Writes config.yaml, found.txt (S_f), trace.csv, forget.safetensors and retain.safetensors (importances),
    model.safetensors, predictions.csv, healing.png and metrics.json; returns what stands in metrics.json. Raises the
    errors of `unlearn`, `read_indices` and `RunFolder`, before the run folder is made wherever that is possible.
    """
    config = config.resolved()
    mode = mode_named(config.mode)
    trained = RunFolder.open(config.run)
    scenario = Scenario.load(from_dict(TrainConfig, trained.read_config("train")))
    found = scenario.found if config.forget is None else read_indices(config.forget, len(scenario.splits.train))
    if missing := sorted(set(found) - set(scenario.trained_on)):
        raise DataError(f"sample {missing[0]} of the forget set is not among those the model was trained on")
    before = _metrics_of(trained)
    reference = None if config.reference is None else _reference_metrics(config.reference)
    model, metadata = load_model(trained / "model.safetensors")
    model.to(config.device)
    run = RunFolder.create(out, overwrite)

    batch_size = config.batch_size or scenario.config.batch_size or 512
    config = replace(config, batch_size=batch_size)
    run.write_config("unlearn", to_dict(config))
    run.write_indices("found.txt", found)
    seed_everything(config.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PotionWarning)  # they stand in the result, and so in metrics.json
        result = unlearn(
            model,
            scenario.retain_loader(found, mode.retain_holds_forget, batch_size, config.seed),
            scenario.forget_loader(found, True, batch_size),
            config.objective,
            w=config.w,
            mode=config.mode,
            group_size=config.group_size,
            rho=config.rho,
            b_start=config.b_start,
            s_step=config.s_step,
            max_steps=config.max_steps,
            evaluation_loader=None if mode.augmented_forget else scenario.forget_loader(found, False, batch_size),
            progress=progress,
        )
    evaluation = _evaluate(result.model, scenario, progress)
    metrics = {**evaluation.metrics, **_compared(evaluation.metrics, before, reference, config)}
    notes = [*result.warnings]
    if metrics["model_damage"].value < COLLAPSED:
        notes.append("the model collapsed: it lost more than 20 points of clean accuracy")
    if before["attack_success_rate"]["value"] < LEARNT:
        notes.append(f"the attack succeeded on fewer than {LEARNT:.0%} of the triggered test images before: poison healed does not count")

    run.write_csv("trace.csv", [asdict(step) for step in result.trace])
    result.forget.save(run / "forget.safetensors")
    result.retain.save(run / "retain.safetensors")
    save_model(run / "model.safetensors", result.model, metadata)
    _write_predictions(run, evaluation)
    curve = trade_off(model, result, scenario, progress) if config.curve else None
    if curve is not None:
        run.write_csv("curve.csv", [asdict(point) for point in curve])
    draw_healing(run / "healing.png", scenario, result, before, metrics, curve, predict(model, scenario.test_loader(True))[0], evaluation)
    return _write_metrics(run, metrics, notes, {"search": result.summary(), "found": len(found)})


def evaluate_run(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    reference: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate the model of a training or an unlearning run again, against a reference run if one is given.

    Writes config.yaml, predictions.csv and metrics.json; returns what stands in metrics.json.
    """
    source = RunFolder.open(path)
    if source.command() == "unlearn":
        unlearnt = from_dict(UnlearnConfig, source.read_config("unlearn"))
        trained = RunFolder.open(unlearnt.run)
    else:
        trained = source
    settings = UnlearnConfig(run=str(trained.path), reference=reference, device=device).resolved()
    scenario = Scenario.load(from_dict(TrainConfig, trained.read_config("train")))
    before = _metrics_of(trained)
    base = None if reference is None else _reference_metrics(reference)
    model, _ = load_model(source / "model.safetensors")
    run = RunFolder.create(out, overwrite)
    run.write_config("evaluate", {"run": str(source.path), "reference": reference, "device": settings.device})
    evaluation = _evaluate(model.to(settings.device), scenario, progress)
    metrics = {**evaluation.metrics, **_compared(evaluation.metrics, before, base, settings)}
    _write_predictions(run, evaluation)
    return _write_metrics(run, metrics, [], {})


def _selection(scenario: Scenario) -> Callable[[nn.Module], float] | None:
    if scenario.config.keep == "last":
        return None
    loader = scenario.validation_loader() if scenario.config.keep == "validation" else scenario.test_loader(False)
    return lambda model: accuracy(*predict(model, loader))


def _evaluate(model: nn.Module, scenario: Scenario, progress: bool) -> PoisonEvaluation:
    clean, triggered = scenario.test_loader(False), scenario.test_loader(True)
    return evaluate_poison(model, clean, triggered, scenario.poison.target, progress)


def _compared(
    metrics: Metrics, before: dict[str, Any], reference: dict[str, Any] | None, config: UnlearnConfig
) -> Metrics:
    """What only a comparison gives: model damage, and poison healed where there is a reference run."""
    clean, triggered = metrics["clean_accuracy"], metrics["triggered_accuracy"]
    base = before["clean_accuracy"]["value"]
    damage = model_damage(clean.value, base)
    compared = [
        Metric("model_damage", damage, "percentage points", clean.n, 0.0, f"difference to clean accuracy {base:.4f} of {config.run}")
    ]
    if reference is not None:
        base = reference["triggered_accuracy"]["value"]
        where = f"triggered accuracy {base:.4f} of {config.reference}, trained without any of S_m"
        compared.append(
            Metric("poison_healed", poison_healed(triggered.value, base), "percent", triggered.n, 100.0, where)
        )
    return {metric.name: metric for metric in compared}


def _metrics_of(run: RunFolder) -> dict[str, Any]:
    metrics = run.read_json("metrics.json")
    names = ("clean_accuracy", "triggered_accuracy", "attack_success_rate")
    if not isinstance(metrics, dict) or not all(
        isinstance(metrics.get("metrics", {}).get(name, {}).get("value"), float) for name in names
    ):
        raise FileError(f"{run / 'metrics.json'} does not hold the metrics of a training run")
    return metrics["metrics"]


def _reference_metrics(path: str) -> dict[str, Any]:
    run = RunFolder.open(path)
    if not from_dict(TrainConfig, run.read_config("train")).leave_out_poisoned:
        raise DataError(f"{path} was trained with the poisoned samples; the reference must be trained without any of them")
    return _metrics_of(run)


def _write_predictions(run: RunFolder, evaluation: PoisonEvaluation) -> None:
    columns = zip(
        evaluation.labels.tolist(),
        evaluation.clean_logits.argmax(1).tolist(),
        evaluation.triggered_logits.argmax(1).tolist(),
        strict=True,
    )
    run.write_csv(
        "predictions.csv",
        [{"index": i, "label": y, "clean": c, "triggered": t} for i, (y, c, t) in enumerate(columns)],
    )


def _write_metrics(run: RunFolder, metrics: Metrics, notes: list[str], more: dict[str, Any]) -> dict[str, Any]:
    content = {"metrics": {name: metric.to_dict() for name, metric in metrics.items()}, "warnings": notes, **more}
    run.write_json("metrics.json", content)
    return content
