"""SSD's own choice of its two parameters: a grid of α and λ, and validation data to choose by (*Potion*, section 4)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from ..edits.plan import EditPlan
from ..errors import SearchError
from ..importances import Importance
from ..modes import GroupSize
from ..utils.adapter import DEFAULT, Adapter, adapter_or_default
from ..utils.batches import check_rereadable
from ..utils.copies import IN_PLACE, copy_model
from ..utils.model import ModelParameters
from ..utils.progress import bar
from ..utils.unchanged import unchanged
from ..utils.warn import warn_caller
from .evaluation import Evaluation

ALPHAS = (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6)
DAMPENINGS = (0.1, 0.5, 1.0, 5.0, 10.0)


@dataclass(frozen=True)
class Setting:
    """One line of the table of an SSD grid: a setting, applied and evaluated.

    Attributes:
        alpha: α.
        dampening: λ itself, not its ratio to α.
        forget_accuracy: Share of S_f still given its (poison) label, in [0, 1].
        validation_accuracy: Accuracy on the validation data, in [0, 1].
        score: ½ · (fall of the accuracy on S_f) + ½ · (rise of that on the validation data), in [-1, 1].
        dampened: Weights that differ from the original model's.
        seconds: Wall-clock time of the edit and its two evaluations.
    """

    alpha: float
    dampening: float
    forget_accuracy: float
    validation_accuracy: float
    score: float
    dampened: int
    seconds: float


@dataclass
class Grid:
    """What an SSD grid gives back.

    Attributes:
        model: The model at the best setting.
        table: Every setting, α by α, in the order given.
        best: The one with the highest score; of equal ones that with the fewest edits.
        forget_accuracy: Accuracy on S_f of the model before, in [0, 1].
        validation_accuracy: Accuracy on the validation data of the model before, in [0, 1].
        group_size: Group size of the importances.
        objective: Objective of the importances.
        warnings: What deserves a second look, as sentences.
        forget: Importances of S_f.
        retain: Importances of the training data.
        seconds: Wall-clock time by phase: "search".
    """

    model: nn.Module = field(repr=False)
    table: list[Setting] = field(repr=False)
    best: Setting
    forget_accuracy: float
    validation_accuracy: float
    group_size: GroupSize
    objective: str
    warnings: list[str]
    forget: Importance
    retain: Importance
    seconds: dict[str, float]

    @property
    def evaluations(self) -> int:
        """How often an accuracy was taken, those of the model before included."""
        return 2 * (1 + len(self.table))

    def summary(self) -> dict[str, Any]:
        """Everything but the model, the importances and the table, as plain values for JSON."""
        return {
            "forget_accuracy": self.forget_accuracy,
            "validation_accuracy": self.validation_accuracy,
            "group_size": self.group_size,
            "objective": self.objective,
            "warnings": self.warnings,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
            "settings": len(self.table),
            "best": asdict(self.best),
        }


def ssd_grid(
    model: nn.Module,
    forget: Importance,
    retain: Importance,
    forget_loader: Iterable[object],
    validation_loader: Iterable[object],
    *,
    alphas: Sequence[float] = ALPHAS,
    dampenings: Sequence[float] = DAMPENINGS,
    inplace: bool = False,
    progress: bool = False,
    adapter: Adapter = DEFAULT,
) -> Grid:
    """Dampen at every α and λ = c · α of a grid and keep the setting with the best score (SSD as *Potion* compares it).

    score = ½ · (acc₀(S_f) − acc(S_f)) + ½ · (acc(validation) − acc₀(validation)): the paper weighs the change on both
    data alike; the public code has no such rule. All settings share one plan: the selection and the way back are made
    once, the dampened values once for every λ.

    Args:
        model: Any nn.Module with float32 weights; a copy is changed unless `inplace`.
        forget: Importances of S_f, of this model with these weights; SSD's own are of objective "ssd".
        retain: Importances of the training data, likewise.
        forget_loader: S_f, with the labels that it was trained with: batches (input, label, ...).
        validation_loader: Data with the labels that they should be given.
        alphas: α, above 0.
        dampenings: c = λ / α, above 0.
        inplace: Change the caller's model; it is restored to the bit should anything fail.
        progress: Show a progress bar.
        adapter: Reads the batches, calls the model and finds its logits, see `Adapter`.

    Returns:
        The model at the best setting, and the table of all.

    Raises:
        SearchError: A value out of range.
        ImportanceError: Importances of another model, or that do not belong together.
        ModelError: Weights that are not float32 or not finite.
        DataError: An empty loader.
    """
    for name, values in (("alphas", alphas), ("dampenings", dampenings)):
        if not values:
            raise SearchError(f"{name} is empty; a grid needs one value at least")
        if bad := [value for value in values if not 0 < value < math.inf]:
            raise SearchError(f"{name} must be above 0 and finite, not {bad[0]}")
    adapter_or_default(adapter)
    check_rereadable(forget_loader, "forget_loader")
    check_rereadable(validation_loader, "validation_loader")
    parameters = ModelParameters(model)
    parameters.check_dampenable(to_be_copied=not inplace)
    with unchanged(parameters.wrapped):
        forget.check_model(parameters)
    if not inplace:
        model = copy_model(model, IN_PLACE)
        parameters = ModelParameters(model)
    with unchanged(parameters.wrapped, only_on_failure=True):
        on_forget = Evaluation(parameters, forget_loader, adapter, "forget_loader")
        on_validation = Evaluation(parameters, validation_loader, adapter, "validation_loader")
        return _searched(model, parameters, forget, retain, (on_forget, on_validation), alphas, dampenings, progress)


def _searched(
    model: nn.Module,
    parameters: ModelParameters,
    forget: Importance,
    retain: Importance,
    evaluations: tuple[Evaluation, Evaluation],
    alphas: Sequence[float],
    dampenings: Sequence[float],
    progress: bool,
) -> Grid:
    """The grid over a model in eval mode, see `ssd_grid`."""
    start = time.perf_counter()
    on_forget, on_validation = evaluations
    before = on_forget(), on_validation()
    places = [(k, c * alpha) for k, alpha in enumerate(alphas) for c in dampenings]
    settings: dict[tuple[int, float], Setting] = {}
    finite: dict[Setting, bool] = {}
    plan: EditPlan | None = None
    try:
        plan = EditPlan(parameters, forget, retain, alphas, dampening=None)
        with bar(label="grid", unit="setting", total=len(places), shown=progress) as done:
            for k, dampening, begun in _applied(plan, places):
                forgotten, validated = on_forget(), on_validation()
                score = (before[0].accuracy - forgotten.accuracy + validated.accuracy - before[1].accuracy) / 2
                accuracies = forgotten.accuracy, validated.accuracy
                seconds = time.perf_counter() - begun
                setting = Setting(alphas[k], dampening, *accuracies, score, plan.dampened(k), seconds)
                settings[k, dampening], finite[setting] = setting, forgotten.finite and validated.finite
                done.update()
        best = min(places, key=lambda place: (-settings[place].score, settings[place].dampened))
        plan.revalue(best[1])
        plan.apply(best[0])
        notes = _notes(settings[best], finite[settings[best]])
        for note in notes:
            warn_caller(note)  # may raise, where a caller makes warnings errors
    except BaseException:
        if plan is not None:
            plan.reset()
        raise
    return Grid(
        model=model,
        table=[settings[place] for place in places],
        best=settings[best],
        forget_accuracy=before[0].accuracy,
        validation_accuracy=before[1].accuracy,
        group_size=forget.group_size,
        objective=forget.objective,
        warnings=notes,
        forget=forget,
        retain=retain,
        seconds={"search": time.perf_counter() - start},
    )


def _applied(plan: EditPlan, places: list[tuple[int, float]]) -> Iterator[tuple[int, float, float]]:
    """Bring the model to each (candidate, λ), by λ and then by growing edits; with the time when that began."""
    current = None
    for k, dampening in sorted(set(places), key=lambda place: (place[1], -float(plan.alphas[place[0]]))):
        begun = time.perf_counter()
        if dampening != current:
            plan.revalue(dampening)
            current = dampening
        plan.apply(k)
        yield k, dampening, begun


def _notes(best: Setting, finite: bool) -> list[str]:
    """Diagnostics of a finished grid, as sentences."""
    notes = []
    if best.score <= 0:
        notes.append(f"no setting scores above 0: at the best, {best.score:.3g}, the model is no better than before")
    if not finite:
        notes.append("the model collapsed: its outputs are not finite")
    return notes
