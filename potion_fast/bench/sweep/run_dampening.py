"""Rows of the methods that edit weights by their importances; ρ, s_step and methods share what they can."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...edits.plan import EditPlan
from ...importances import Importance, importance
from ...importances.objectives import resolve_in_mode
from ...modes import mode_named
from ...search import S_STEP, STRATEGIES, Result, Step
from ..runs.scenario import Loader
from ..unlearners import Loaders
from ..unlearners.dampening import Dampening
from ..unlearners.ptn import PTN
from ..unlearners.ssd_goel import SSDGoel
from .case import UnlearningCase
from .early_stops import EarlyStop, spread, steps_for, stop_at, stop_of
from .plan import RetainPass, axes
from .rows import Row, TracePoint
from .sweep_folder import SweepFolder

SHARED, OWN = "shared: whole groups of one pass over S_tr", "pass"
RHO = 0.2  # the paper's; rows at it, and at the step of 1.1, hold the trace


@dataclass(frozen=True)
class ImportancePair:
    """Importances of S_f and of the training data.

    Attributes:
        forget: Of S_f.
        retain: Of S_tr, without S_f unless the method takes them over all of it.
        seconds: Wall-clock time of the two passes, by phase.
    """

    forget: Importance
    retain: Importance
    seconds: dict[str, float]


def dampened_rows(
    case: UnlearningCase, unlearner: Dampening, folder: SweepFolder, retain_pass: RetainPass
) -> Iterator[Row]:
    """A row, or of a search one for every ρ and s_step.

    Raises:
        PotionError: Those of the method.
    """
    subject, config = case.subject, case.config
    pair = _pair(case, unlearner, folder, retain_pass)
    batches = sum(-(-part.samples // subject.batch_size) for part in (pair.forget, pair.retain))
    shared: dict[str, Any] = {"gradient_steps": batches, "retain_from": SHARED if retain_pass.shared else OWN}
    if unlearner.holds_forget:
        pair = ImportancePair(pair.forget, pair.retain.merge(pair.forget), pair.seconds)
    loader = subject.forget_loader(case.found, mode_named(config.mode).augmented_forget)
    if isinstance(unlearner, PTN):
        yield from _searched(case, unlearner, pair, loader, shared)
        return
    chooses = isinstance(unlearner, SSDGoel)
    loaders = Loaders(loader, (), validation=subject.validation_loader() if chooses else None)
    unlearned = unlearner.edit(subject.model, pair.forget, pair.retain, loaders, case.progress)
    notes = list(unlearned.warnings)
    if chooses and not subject.scenario.validation:
        notes.append("the setting was chosen by the test set, as there is no validation set")
    chosen: dict[str, Any] = {name: getattr(unlearned.kept, name, None) for name in ("alpha", "dampened")}
    report = unlearned.report
    chosen["evaluations"] = len(unlearned.trace) if report is None else report.evaluations
    seconds = {**pair.seconds, "search": sum(unlearned.seconds.values())}
    yield case.row(unlearned.model, edited=True, seconds=seconds, notes=notes, **chosen, **shared)


def _pair(case: UnlearningCase, unlearner: Dampening, folder: SweepFolder, retain_pass: RetainPass) -> ImportancePair:
    subject, objective, m = case.subject, unlearner.objective, case.unit.group_size
    assert m is not None
    file = folder.retain_file(retain_pass, case.unit.found, objective)
    retain = Importance.load(file, next(subject.model.parameters()).device)
    loader, start = subject.forget_loader(case.found, case.config.augmented), time.perf_counter()
    formed = resolve_in_mode(objective, None, case.config.mode)
    forget = importance(subject.model, loader, formed, group_size=m, progress=case.progress)
    seconds = {"forget": time.perf_counter() - start, "retain": folder.retain_seconds(retain_pass, case.unit.found)}
    return ImportancePair(forget, retain, seconds)


def _searched(
    case: UnlearningCase, unlearner: PTN, pair: ImportancePair, loader: Loader, shared: dict[str, Any]
) -> Iterator[Row]:
    """A row for every ρ and s_step."""
    rhos, s_steps = axes(case.config, case.unit.method)
    for s_step in s_steps:
        traced = None
        if s_step == (S_STEP if S_STEP in s_steps else s_steps[0]):
            traced = RHO if RHO in rhos else rhos[0]
        fields = {**shared, "s_step": s_step, "strategy": unlearner.strategy}
        shareable = STRATEGIES[unlearner.strategy].tries_every_step and unlearner.max_damage is None
        if shareable:  # all ρ from the trace of the smallest
            result = _search(case, unlearner, pair, loader, min(rhos), s_step)
            stops = [stop_at(result, rho, _strict(unlearner)) for rho in rhos]
            started = {**fields, "before_found_accuracy": result.initial_accuracy}
            yield from _reapplied(case, pair, result, stops, traced, started)
            continue
        for rho in rhos:
            result = _search(case, unlearner, pair, loader, rho, s_step)
            trace = [_point(step) for step in result.trace] if rho == traced else None
            started = {**fields, "before_found_accuracy": result.initial_accuracy, "trace": trace}
            yield _row(case, result.model, pair, stop_of(result), started)


def _search(
    case: UnlearningCase, unlearner: PTN, pair: ImportancePair, loader: Loader, rho: float, s_step: float | None
) -> Result:
    cap = unlearner.max_steps if "max_steps" in case.unit.method.settings or s_step is None else steps_for(s_step)
    searched = unlearner.updated(rho=rho, s_step=s_step, max_steps=cap)
    limited = unlearner.max_damage is not None
    loaders = Loaders(loader, (), validation=case.subject.validation_loader() if limited else None)
    report = searched.edit(case.subject.model, pair.forget, pair.retain, loaders, case.progress).report
    assert isinstance(report, Result)
    return report


def _reapplied(
    case: UnlearningCase,
    pair: ImportancePair,
    result: Result,
    stops: Sequence[EarlyStop],
    traced: float | None,
    fields: dict[str, Any],
) -> Iterator[Row]:
    """The rows of several ρ: the step of each applied again to the poisoned model, which comes back as it was."""
    model = case.subject.model
    curve = spread(result.trace, case.config.curve) if traced is not None else []
    steps = {step.step: step for step in [*curve, *(stop.kept for stop in stops if stop.kept is not None)]}
    plan = EditPlan.at_percentiles(model, pair.forget, pair.retain, [step.percentile for step in steps.values()])
    places = {number: k for k, number in enumerate(steps)}
    try:
        scores = {}
        for step in curve:
            plan.apply(places[step.step])
            scores[step.step] = case.subject.evaluate(model, edited=True)
        for stop in stops:
            plan.reset() if stop.kept is None else plan.apply(places[stop.kept.step])
            trace = None
            if stop.rho == traced:
                names = ("clean_accuracy", case.subject.scenario.poison.score_names[0])
                tests = {number: [evaluation.scores[name] for name in names] for number, evaluation in scores.items()}
                trace = [_point(step, tests.get(step.step)) for step in result.trace]
            yield _row(case, model, pair, stop, {**fields, "trace": trace})
    finally:
        plan.reset()


def _row(case: UnlearningCase, model: nn.Module, pair: ImportancePair, stop: EarlyStop, fields: dict[str, Any]) -> Row:
    kept = {name: getattr(stop.kept, name, None) for name in ("alpha", "dampened")}
    kept |= {"steps": stop.steps, "evaluations": 1 + stop.steps, "reason": stop.reason}
    seconds = {**pair.seconds, "search": stop.seconds}
    return case.row(model, edited=True, seconds=seconds, notes=stop.notes, rho=stop.rho, **kept, **fields)


def _point(step: Step, tests: Sequence[float] | None = None) -> TracePoint:
    """A step for a row's trace, with the test set's accuracies where they were taken."""
    clean, attacked = tests or (None, None)
    return TracePoint(step.step, step.s, step.percentile, step.alpha, step.accuracy, step.dampened, clean, attacked)


def _strict(unlearner: PTN) -> bool:
    return mode_named(unlearner.mode).strict if unlearner.strict is None else unlearner.strict
