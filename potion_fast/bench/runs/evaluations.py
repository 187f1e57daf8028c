"""What an attack has done to a model: measured, written to the run folder, and compared with other models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from ...utils.predict import predict
from ..attacks import Gaussian
from ..data.text import TextSplits
from ..metrics import (
    GaussianEvaluation,
    IndiscriminateEvaluation,
    Metric,
    PoisonEvaluation,
    SwapEvaluation,
    TargetEvaluation,
    evaluate_gaussian,
    evaluate_indiscriminate,
    evaluate_poison,
    evaluate_swap,
    evaluate_targets,
    model_damage,
    poison_healed,
    poison_removed,
)
from .folder import RunFolder
from .inputs import HEALED, Accuracies
from .scenario import Scenario

Evaluation = PoisonEvaluation | SwapEvaluation | GaussianEvaluation | TargetEvaluation | IndiscriminateEvaluation


def evaluated(model: nn.Module, scenario: Scenario, progress: bool = False) -> Evaluation:
    """The model on the test images, and on what the attack is judged by: see the evaluation of each kind of poison."""
    found = _evaluated(model, scenario, progress)
    if not isinstance(scenario.splits, TextSplits):
        return found
    seen = (
        ""
        if scenario.word is None
        else "; {word!r} by the rule {rule!r} stands in {test} test reviews".format(**scenario.word)
    )
    return replace(found, metrics={name: _of_texts(metric, seen) for name, metric in found.metrics.items()})


def _evaluated(model: nn.Module, scenario: Scenario, progress: bool) -> Evaluation:
    clean, attacked, poison = scenario.test_loader(False), scenario.attacked_loader(), scenario.poison
    if poison.target is not None:
        return evaluate_poison(model, clean, attacked, poison.target, progress)
    if isinstance(poison, Gaussian):
        assert poison.table is not None  # drawn where it is not read
        noise, seed = poison.table.values, scenario.config.seed
        return evaluate_gaussian(model, clean, attacked, noise, poison.variance, seed=seed, progress=progress)
    if poison.kind == "targeted":
        return evaluate_targets(model, clean, attacked, scenario.attacked_labels()[1], progress)
    if poison.kind == "indiscriminate":
        return evaluate_indiscriminate(model, clean, progress)
    return evaluate_swap(model, clean, attacked, scenario.attacked_labels()[1], scenario.swapped_pair(), progress)


def _of_texts(metric: Metric, seen: str) -> Metric:
    """A metric that counts reviews, of which `seen` says how many hold the trigger word."""
    where = (metric.denominator or "").replace("image", "review")
    return replace(metric, denominator=where + seen if metric.name.startswith("target_") else where)


def attacked_outputs(model: nn.Module, scenario: Scenario, progress: bool = False) -> Tensor:
    """Logits [M, C] of the images that the attack is judged by; of Gaussian poison the statistics [P]."""
    if scenario.poison.kind != "gaussian":
        return predict(model, scenario.attacked_loader(), progress)[0]
    evaluation = evaluated(model, scenario, progress)
    assert isinstance(evaluation, GaussianEvaluation)
    return evaluation.statistics


def write_evaluation(run: RunFolder, scenario: Scenario, evaluation: Evaluation) -> None:
    """Write predictions.csv, and by kind manipulated.csv (S_m), targets.csv or statistics.csv (S_m)."""
    columns = {"label": evaluation.labels, "clean": evaluation.clean_logits.argmax(1)}
    if isinstance(evaluation, PoisonEvaluation):
        columns["triggered"] = evaluation.triggered_logits.argmax(1)
    _write_columns(run, "predictions.csv", range(len(evaluation.labels)), columns)
    labels, wanted = scenario.attacked_labels()
    predicted = evaluation.attacked_logits.argmax(1)
    if isinstance(evaluation, SwapEvaluation):
        columns = {"label": labels, "given": wanted, "predicted": predicted}
        _write_columns(run, "manipulated.csv", scenario.poisoned, columns)
    if isinstance(evaluation, TargetEvaluation):
        columns = {"label": labels, "intended": wanted, "predicted": predicted}
        _write_columns(run, "targets.csv", scenario.attacked.rows, columns)
    if isinstance(evaluation, GaussianEvaluation):
        columns = {"label": labels, "predicted": predicted, "statistic": evaluation.statistics}
        _write_columns(run, "statistics.csv", scenario.poisoned, columns)


def _write_columns(run: RunFolder, name: str, index: Iterable[int], columns: Mapping[str, Tensor]) -> None:
    rows = zip(index, *(column.tolist() for column in columns.values()), strict=True)
    run.write_csv(name, ("index", *columns), rows)


def compared(
    scenario: Scenario,
    evaluation: Evaluation,
    run: str,
    before: Accuracies,
    reference: str | None,
    reference_values: Accuracies | None,
) -> dict[str, Metric]:
    """What only a comparison gives: model damage, and against a reference run poison healed and poison removed.

    Poison healed is no score of noise, nor of an attack on all test images. Noise is compared with 0.
    """
    attacked, reached = (evaluation.metrics[name] for name in scenario.poison.scores)
    clean, base = evaluation.metrics["clean_accuracy"], before["clean_accuracy"]
    where = f"difference to clean accuracy {base:.4f} of {run}"
    damage = model_damage(clean.value, base)
    found = [Metric("model_damage", damage, "percentage points", clean.n, 0.0, where)]
    if reference_values is not None and scenario.poison.kind in HEALED:
        value = reference_values[attacked.name]
        where = f"{_words(attacked)} {value:.4f} of {reference}, trained without any of S_m"
        healed = poison_healed(attacked.value, value)
        found.append(Metric("poison_healed", healed, "percent", attacked.n, 100.0, where))
    value, whose = 0.0, "noise that was never seen"
    if scenario.poison.kind != "gaussian":
        if reference_values is None:
            return {metric.name: metric for metric in found}
        value, whose = reference_values[reached.name], f"{reference}, trained without any of S_m"
    removed = poison_removed(before[reached.name], reached.value, value)
    if removed is not None:
        where = f"{_words(reached)} {before[reached.name]:.4f} of {run}, less {value:.4f} of {whose}"
        found.append(Metric("poison_removed", removed, "percent", reached.n, 100.0, where))
    return {metric.name: metric for metric in found}


def _words(metric: Metric) -> str:
    return metric.name.replace("_", " ")
