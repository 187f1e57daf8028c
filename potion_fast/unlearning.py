"""The whole method on one page: importance → thresholds → edits → search (paper A, *Potion*)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from torch import nn
from typing_extensions import Unpack

from .distributed import Ranks, ranks_for
from .distributed.sampler import gives_a_share
from .importances import Importance, Objective, PassKeywords, PassOptions, importance
from .importances.objectives import Losses, resolve_in_mode
from .importances.options import pass_options
from .modes import GroupSize, mode_named
from .search import Result, SearchKeywords, SearchOptions, ptn_search, search_options
from .utils.adapter import Adapter
from .utils.batches import check_rereadable, count_samples
from .utils.memory import check_unlearning
from .utils.model import ModelParameters


class UnlearnKeywords(PassKeywords, SearchKeywords):
    """The fields of `PassOptions` and `SearchOptions` as keyword arguments, for type checkers."""


def unlearn(
    model: nn.Module | ModelParameters,
    retain_loader: Iterable[object],
    forget_loader: Iterable[object],
    objective: str | Losses | Objective | None = None,
    *,
    group_size: GroupSize | None = None,
    w: float | None = None,
    forget: Importance | None = None,
    retain: Importance | None = None,
    passes: PassOptions | None = None,
    search: SearchOptions | None = None,
    evaluation_loader: Iterable[object] | None = None,
    inplace: bool = False,
    on_importance: Callable[[str, Importance], None] | None = None,
    **keywords: Unpack[UnlearnKeywords],
) -> Result:
    """Remove from a trained model what the found poisoned samples taught it (paper A).

    On several ranks each gives its share of the training data (a ShareSampler) and all of S_f, and they end with the
    same healed model. The importances of S_f are the first rank's, or of all ranks where its loader has a ShareSampler
    too, as that of a model sharded by FSDP2 must have; `evaluation_loader` then reads everything.

    Args:
        model: Any nn.Module with float32 weights; a copy is healed unless `inplace`.
        retain_loader: The training data as the model was trained on it, batches (input, label, ...): without S_f in the
            default and the reference mode, all of it in mode "paper" (`retain_holds_forget`).
        forget_loader: S_f, the poisoned samples that were found, with the labels they were trained with.
        objective: See `importance`; XLF by default.
        group_size: See `importance`; by default that of the importances that are given, or else the mode's: 64, or as
            many samples as were found if these are fewer.
        w: See `importance`.
        forget: Importances of S_f computed before.
        retain: Importances of the training data computed before; the retain loader is then not read.
        passes: How the passes run: precision, ranks, progress; the defaults of `PassOptions` otherwise. A checkpoint is
            kept of the pass over the training data alone, the long one. The ranks are those of the whole method; where
            `retain` is given, None means all that there are.
        search: How the search goes; the defaults of `SearchOptions` otherwise. Its mode is that of the whole method.
        evaluation_loader: S_f for its accuracy, where it should differ from `forget_loader` (no augmentation, say).
        inplace: Heal the caller's model; it is restored to the bit should anything fail.
        on_importance: Called with "forget" or "retain" and the importances once they are computed, to save them before
            the next step.
        **keywords: Fields of `PassOptions` and `SearchOptions`, in place of those of `passes` and `search`.

    Returns:
        The healed model, the trace of every step and why it stopped.

    Raises:
        ImportanceError: See `importance`; importances that do not belong together or are of another model.
        SearchError: A value out of range, or an option that the strategy does not use.
        ModelError: Weights that are not float32 or not finite.
        DataError: An empty loader, or batches of another form.
        OutOfMemoryError: All of it will not fit, raised before any work.
        TypeError: A keyword that is no option.
    """
    process_group = keywords.get("process_group", None if passes is None else passes.process_group)
    ranks = ranks_for(retain_loader, process_group) if retain is None else Ranks.of(process_group)
    with ranks.raising_together():
        options, search_keywords = _split(passes, keywords)
        settings = search_options(search, search_keywords)
        parameters = ModelParameters.of(model)
        for name, loader in (("forget_loader", forget_loader), ("evaluation_loader", evaluation_loader)):
            if loader is not None:
                check_rereadable(loader, name)
        if forget is None or retain is None:
            objective, w = resolve_in_mode(objective, w, settings.mode), None
        if missing := (forget is None) + (retain is None):
            check_unlearning(parameters, missing, inplace)
        if group_size is None:
            group_size = _group_size(settings, forget_loader, retain if forget is None else forget, options.adapter)
    long_pass = replace(options, process_group=ranks.group or False)
    short_pass = replace(long_pass, checkpoint=None, resume=False)

    seconds = {}
    if forget is None:  # the cheap one first
        start = time.perf_counter()
        if gives_a_share(forget_loader):
            forget = importance(parameters, forget_loader, objective, group_size=group_size, w=w, options=short_pass)
        else:
            alone = replace(short_pass, process_group=False)
            with ranks.raising_together():
                forget = importance(parameters, forget_loader, objective, group_size=group_size, w=w, options=alone)
            ranks.broadcast(forget.sums)  # kernels of a GPU may add in another order on each
        seconds["forget"] = time.perf_counter() - start
        _report(on_importance, "forget", forget, ranks)
    if retain is None:
        start = time.perf_counter()
        retain = importance(parameters, retain_loader, objective, group_size=group_size, w=w, options=long_pass)
        seconds["retain"] = time.perf_counter() - start
        _report(on_importance, "retain", retain, ranks)
    forget.check_same(retain)

    result = ptn_search(
        parameters,
        forget,
        retain,
        forget_loader,
        options=settings,
        evaluation_loader=evaluation_loader,
        inplace=inplace,
        process_group=long_pass.process_group,
        progress=options.progress,
        adapter=options.adapter,
    )
    result.seconds = {**seconds, **result.seconds}
    return result


def _split(passes: PassOptions | None, keywords: UnlearnKeywords) -> tuple[PassOptions, SearchKeywords]:
    """The options of the passes, and the keywords that are options of the search."""
    of_passes: dict[str, Any] = {}
    of_search: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in PassKeywords.__annotations__:
            of_passes[name] = value
        elif name in SearchKeywords.__annotations__:
            of_search[name] = value
        else:
            raise TypeError(f"unlearn() got an unexpected keyword argument {name!r}")
    return pass_options(passes, cast(PassKeywords, of_passes)), cast(SearchKeywords, of_search)


def _group_size(
    settings: SearchOptions, forget_loader: Iterable[object], given: Importance | None, adapter: Adapter
) -> GroupSize:
    """That of the importances that are given; the mode's where there are none."""
    if given is not None:
        return given.group_size
    return mode_named(settings.mode).group_size_for(count_samples(forget_loader, adapter))


def _report(
    on_importance: Callable[[str, Importance], None] | None, name: str, computed: Importance, ranks: Ranks
) -> None:
    with ranks.raising_together():
        if on_importance is not None:
            on_importance(name, computed)
