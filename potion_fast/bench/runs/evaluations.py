"""Evaluations of a poisoned or healed model: measured, written to the run folder, and compared with other models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ...user.run_folder import RunFolder
from ..attacks import Scores
from ..metrics import Evaluation, Metric, model_damage, poison_healed, poison_removed
from .scenario import Scenario


def evaluated(model: nn.Module, scenario: Scenario, progress: bool = False) -> Evaluation:
    """The model on the test samples, and on those that the attack is judged by: see the kinds of attack."""
    return scenario.poison.evaluate(model, scenario.evaluation_inputs(), progress)


def attacked_outputs(model: nn.Module, scenario: Scenario, progress: bool = False) -> Tensor:
    """Logits [M, C] of the samples that the attack is judged by; of Gaussian poison the statistics [P]."""
    return scenario.poison.attacked_outputs(model, scenario.evaluation_inputs(), progress)


def write_evaluation(run: RunFolder, scenario: Scenario, evaluation: Evaluation) -> None:
    """Write predictions.csv, and the file of the attacked samples where the kind of attack has one."""
    poison, attacked = scenario.poison, scenario.attacked
    _write_columns(run, "predictions.csv", range(len(evaluation.labels)), poison.prediction_columns(evaluation))
    if poison.attacked_file is not None:
        _write_columns(run, poison.attacked_file, attacked.rows, poison.attacked_columns(evaluation, attacked))


def _write_columns(run: RunFolder, name: str, index: Iterable[int], columns: Mapping[str, Tensor]) -> None:
    rows = zip(index, *(column.tolist() for column in columns.values()), strict=True)
    run.write_csv(name, ("index", *columns), rows)


def compared(
    scenario: Scenario,
    evaluation: Evaluation,
    run: str,
    before: Scores,
    reference: str | None,
    reference_values: Scores | None,
) -> dict[str, Metric]:
    """What only a comparison gives: model damage, and against a reference run poison healed and poison removed.

    Poison healed is no score of noise, nor of an attack on all test samples. Noise is compared with noise never seen.

    Args:
        scenario: data of both models.
        evaluation: of the model after unlearning.
        run: name of the run whose model was unlearnt.
        before: metrics of its model.
        reference: name of a reference run; None without one.
        reference_values: metrics of its model.

    Returns:
        "model_damage", "poison_healed" and "poison_removed", as far as they can be computed.
    """
    poison = scenario.poison
    attacked, reached = (evaluation.metrics[name] for name in poison.score_names)
    clean, base = evaluation.metrics["clean_accuracy"], before["clean_accuracy"]
    where = f"difference to clean accuracy {base:.4f} of {run}"
    damage = model_damage(clean.value, base)
    metrics = [Metric("model_damage", damage, "percentage points", clean.n, 0.0, where)]
    if reference_values is not None and poison.gives_labels:
        value = reference_values[attacked.name]
        where = f"{_format_name(attacked)} {value:.4f} of {reference}, trained without any of S_m"
        healed = poison_healed(attacked.value, value)
        metrics.append(Metric("poison_healed", healed, "percent", attacked.n, 100.0, where))
    unseen, whose = poison.unseen_score, "noise that was never seen"
    if unseen is None and reference_values is not None:
        unseen, whose = reference_values[reached.name], f"{reference}, trained without any of S_m"
    removed = None if unseen is None else poison_removed(before[reached.name], reached.value, unseen)
    if removed is not None:
        where = f"{_format_name(reached)} {before[reached.name]:.4f} of {run}, less {unseen:.4f} of {whose}"
        metrics.append(Metric("poison_removed", removed, "percent", reached.n, 100.0, where))
    return {metric.name: metric for metric in metrics}


def _format_name(metric: Metric) -> str:
    return metric.name.replace("_", " ")
