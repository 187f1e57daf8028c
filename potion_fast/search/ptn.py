"""The PTN search (*Potion*, algorithm 1): a model, its importances and S_f in, the healed model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import nn
from typing_extensions import Unpack

from ..distributed import Group, Ranks
from ..edits.plan import EditPlan
from ..edits.ranked import RankedPlan
from ..importances import Importance
from ..modes import GroupSize
from ..utils.adapter import DEFAULT, Adapter, adapter_or_default
from ..utils.copies import IN_PLACE, copy_model
from ..utils.model import ModelParameters
from ..utils.progress import bar
from ..utils.unchanged import unchanged
from ..utils.warn import warn_caller
from .damage import CleanData
from .evaluation import BatchedEvaluation
from .options import SearchKeywords, SearchOptions, search_options
from .parallel import (
    DistributedEvaluation,
    check_same_search,
    first_ranks_score,
    search_ranks,
)
from .result import NOT_LEARNT, Result
from .state import Plan, Point, Search, Tried
from .strategies import STRATEGIES, Trial
from .unedited import Unedited, check_search, evaluated_loader

BLOCK = 64  # steps whose thresholds are computed at a time

Order = Callable[[Plan], Iterator[Trial]]


def ptn_search(
    model: nn.Module | ModelParameters,
    forget: Importance,
    retain: Importance,
    forget_loader: Iterable[object],
    *,
    options: SearchOptions | None = None,
    evaluation_loader: Iterable[object] | None = None,
    clean_loader: Iterable[object] | None = None,
    inplace: bool = False,
    process_group: Group = None,
    progress: bool = False,
    adapter: Adapter = DEFAULT,
    **keywords: Unpack[SearchKeywords],
) -> Result:
    """Dampen more and more, until the accuracy on S_f has fallen to ρ of what it was (*Potion*, algorithm 1).

    The search ends at α ≤ 1 in every mode: from there on no step changes the model. Where it ends without passing the
    threshold, the most edited model is given back with a warning, as the public code does. Where accuracy does not fall
    with every edit, "bisect" and "minimal" end at an edit that passes, next to one that does not; a warning says so if
    they saw it.

    Where what the samples of S_f share is no trigger, as where labels were swapped, the threshold is passed by ruin
    alone: `clean_loader` measures the damage, and `max_damage` keeps the last candidate within a limit of it.

    On several ranks, all end with the same weights, trace and reason, those of one process. "sequential" and "batched"
    assign the candidates round-robin, candidate k to rank k mod their number (the parallel loop of algorithm 1).
    "bisect" and "minimal", where each candidate depends on the one before, are run by all ranks alike.
    DistributedDataParallel is unwrapped. A model that FSDP2 has sharded, with importances of its shards (see
    `EditPlan`), is searched "sequential" or "bisect" and in place, by the ranks that hold it, all trying the same
    candidate; `process_group` is then not used. An error on one rank is raised on all.

    Args:
        model: Any nn.Module with float32 weights; a copy is changed unless `inplace`.
        forget: Importances of S_f, of this model with these weights.
        retain: Importances of the training data, likewise.
        forget_loader: S_f, with the labels that it was trained with: batches (input, label, ...).
        options: How the search goes; the defaults of `SearchOptions` otherwise.
        evaluation_loader: S_f for the accuracy, where it should differ from `forget_loader` (no augmentation, say).
        clean_loader: Data that are not poisoned, with their labels, all of them on each rank: the damage is measured on
            them, once before the search and once at its end; with `max_damage` also every 64 steps, and where the limit
            is exceeded some six times more ("minimal": up to the logarithm of the number of its weights).
        inplace: Change the caller's model; it is restored to the bit should anything fail.
        process_group: The ranks of torch.distributed that search together, each with the same model, importances and
            whole S_f. None: all that there are; False: this process alone.
        progress: Show a progress bar.
        adapter: Reads the batches, calls the model and finds its logits, see `Adapter`.
        **keywords: Fields of `SearchOptions`, in place of those of `options`.

    Returns:
        The healed model, the trace of every step and why it stopped.

    Raises:
        SearchError: A value out of range, an option that the strategy does not use, a model that torch.func cannot
            evaluate "batched".
        ImportanceError: Importances of another model, or that do not belong together, or ranks that are not given the
            same.
        ModelError: Weights that are not float32 or not finite.
        DataError: An empty loader, one that can be read only once, on several ranks one of a share of S_f, or labels
            that are no classes of the model's.
        TypeError: A keyword that is no field of `SearchOptions`.
    """
    parameters = ModelParameters.of(model)
    loader, name = evaluated_loader(forget_loader, evaluation_loader)
    ranks, sharded = search_ranks(parameters, process_group)
    with ranks.raising_together():
        settings = search_options(options, keywords).resolved()
        adapter_or_default(adapter)
        check_search(settings, loader, ranks, sharded, inplace, clean_loader, name)
        parameters.check_dampenable(to_be_copied=not inplace)
        _grid(settings, forget, retain)
        with unchanged(parameters.wrapped):
            forget.check_model(parameters)
        if not inplace:
            parameters = ModelParameters(copy_model(parameters.wrapped, IN_PLACE))
    check_same_search(ranks, settings, forget, retain, sharded)
    started = time.perf_counter()
    with unchanged(parameters.wrapped, only_on_failure=True):
        unedited = Unedited.of(parameters, loader, settings, ranks, sharded, adapter, clean_loader, name)
        result = search_from(unedited, forget, retain, progress)
    result.seconds = {"search": time.perf_counter() - started}
    return result


def not_learnt(unedited: Unedited, objective: str, group_size: GroupSize) -> Result:
    """The result of a search that ends at once, without importances."""
    result = Search(unedited).result(objective, group_size)
    _warn(result)
    return result


def search_from(
    unedited: Unedited,
    forget: Importance,
    retain: Importance,
    progress: bool,
    clean: CleanData | None = None,
) -> Result:
    """Search a model that was evaluated; it is restored to the bit should anything fail.

    Args:
        unedited: The model, in eval mode.
        forget: Importances of S_f.
        retain: Importances of the training data.
        progress: Show a progress bar.
        clean: What the damage is measured on at the end, where the caller gave no clean data.
    """
    f, r = (_on_device(importance, unedited.model.device) for importance in (forget, retain))
    subject, search = _Subject(unedited, f, r), Search(unedited)
    grid = _grid(unedited.settings, forget, retain)
    try:
        order = _order(subject, search)
        if search.reason != NOT_LEARNT:
            _try_candidates(search, order, subject, grid, progress and unedited.ranks.rank == 0)
        if search.plan is not None:
            search.plan.reset() if search.best is None else search.plan.apply(search.best[0].k)
        result = search.result(forget.objective, forget.group_size, clean)
        result.forget, result.retain = forget, retain
        _warn(result)
    except BaseException:
        if search.plan is not None:
            search.plan.reset()
        raise
    return result


def _warn(result: Result) -> None:
    """Warn of what deserves a second look; that may raise, where a caller makes warnings errors."""
    for note in result.warnings:
        warn_caller(note)


@dataclass(frozen=True)
class _Subject:
    """What is searched: a model that was evaluated, and its importances on its device."""

    unedited: Unedited
    forget: Importance
    retain: Importance

    @property
    def model(self) -> ModelParameters:
        return self.unedited.model

    @property
    def ranks(self) -> Ranks:
        return self.unedited.ranks


def _grid(settings: SearchOptions, forget: Importance, retain: Importance) -> Iterator[tuple[float, float]] | None:
    """The steps of the search; None for a strategy without."""
    return settings.grid(forget.samples, retain.total) if STRATEGIES[settings.strategy].uses_grid else None


def _on_device(importance: Importance, device: torch.device) -> Importance:
    return importance if importance.sums.device == device else importance.to(device)


def _order(subject: _Subject, search: Search) -> Order:
    """The strategy's order of candidates, with the evaluation that its `parallel` asks for."""
    strategy = STRATEGIES[search.settings.strategy]
    if strategy.if_start_passes is not None and search.passes(search.initial.accuracy):
        strategy = strategy.if_start_passes
    unedited = subject.unedited
    ranks, evaluation = unedited.ranks, unedited.evaluation
    if strategy.parallel == "batch":
        with ranks.raising_together():
            local = BatchedEvaluation(
                unedited.model, subject.forget, subject.retain, evaluation.loader, unedited.largest, evaluation.adapter
            )
        return partial(strategy.run, evaluate=DistributedEvaluation(local, ranks), passes=search.passes)
    if strategy.parallel == "ranks" and not unedited.sharded:
        return partial(strategy.run, evaluate=evaluation, passes=search.passes, ranks=ranks)
    return partial(strategy.run, evaluate=partial(first_ranks_score, evaluation, ranks), passes=search.passes)


def _at(subject: _Subject, points: list[Point]) -> EditPlan:
    """The plan whose candidates are these steps."""
    with subject.ranks.raising_together():
        return EditPlan.at_percentiles(subject.model, subject.forget, subject.retain, [p for _, _, p in points])


def _rounds(subject: _Subject, grid: Iterator[tuple[float, float]] | None) -> Iterator[tuple[Plan, list[Point]]]:
    """The candidates, round by round: each round's plan on the original weights, and its steps."""
    return _ranked(subject) if grid is None else _blocks(subject, grid)


def _blocks(subject: _Subject, grid: Iterator[tuple[float, float]]) -> Iterator[tuple[EditPlan, list[Point]]]:
    """The steps of a grid, block by block."""
    numbered = enumerate(grid, start=1)
    while block := [(number, s, p) for number, (s, p) in islice(numbered, BLOCK)]:
        plan = _at(subject, block)
        yield plan, block
        plan.reset()


def _ranked(subject: _Subject) -> Iterator[tuple[RankedPlan, list[Point]]]:
    """All weights in one round, and no steps that its candidates belong to."""
    with subject.ranks.raising_together():
        plan = RankedPlan(subject.model, subject.forget, subject.retain)
    yield plan, []


def _try_candidates(
    search: Search, order: Order, subject: _Subject, grid: Iterator[tuple[float, float]] | None, shown: bool
) -> None:
    """Go through the candidates, round by round, until one passes, none is left or the damage is beyond its limit."""
    evaluate = partial(first_ranks_score, search.unedited.evaluation, subject.ranks)
    with bar(label="search", unit="evaluation", shown=shown) as done:
        for plan, points in _rounds(subject, grid):
            search.plan, before, tried = plan, search.best, list[Tried]()
            for trial in islice(order(plan), search.settings.max_steps):  # a grid is no longer than that anyway
                tried.append(search.record(trial, points))
                done.update()
                done.set_postfix_str(f"accuracy on S_f {trial.accuracy:.1%}", refresh=False)
            over = search.end_round(tried, points)
            if search.exceeds_limit(plan):
                search.step_back(plan, tried, points, evaluate)
                if search.best is None and before is not None:
                    plan.reset()
                    _keep(search, subject, before)
                return
            if over:
                return


def _keep(search: Search, subject: _Subject, tried: Tried) -> None:
    """Keep a step of an earlier block, whose plan is gone."""
    trial, step = tried
    search.plan, search.best = _at(subject, [(step.step, step.s, step.percentile)]), (replace(trial, k=0), step)
