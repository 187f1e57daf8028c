"""The whole method on one page: importance → thresholds → edits → search (*Potion: Towards Poison Unlearning*)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from torch import nn
from typing_extensions import Unpack

from .distributed import Ranks, ranks_for
from .distributed.sampler import gives_a_share
from .errors import ImportanceError
from .importances import Importance, Objective, PassKeywords, PassOptions
from .importances.checkpoints import PassCheckpoint
from .importances.kept_samples import KeptOfLabels, SeenSamples
from .importances.objectives import Losses, resolve_in_mode
from .importances.options import pass_options
from .importances.part import KnownThresholds
from .importances.passes import check_group_size, computed
from .modes import GroupSize, mode_named
from .search import STRATEGIES, Result, SearchKeywords, SearchOptions, search_options
from .search.damage import kept_data
from .search.members import PLACES, features_of_found, places_of_wrong_members, swapped_note, wrong_members_note
from .search.parallel import check_same_search, search_ranks
from .search.ptn import not_learnt, search_from
from .search.unedited import Unedited, check_search, evaluated_loader
from .utils.adapter import Adapter
from .utils.batches import check_loader, check_rereadable, count_samples, known_count
from .utils.copies import IN_PLACE, copy_model
from .utils.data_errors import data_named
from .utils.did_you_mean import did_you_mean
from .utils.memory import check_unlearning
from .utils.model import ModelParameters
from .utils.unchanged import unchanged
from .utils.warn import warn_caller


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
    clean_loader: Iterable[object] | None = None,
    inplace: bool = False,
    on_importance: Callable[[str, Importance], None] | None = None,
    **keywords: Unpack[UnlearnKeywords],
) -> Result:
    """Remove from a trained model what the found poisoned samples taught it (*Potion*).

    On several ranks each gives its share of the training data (a ShareSampler) and all of S_f, and they end with the
    same healed model. The importances of S_f are the first rank's, or of all ranks where its loader has a ShareSampler
    too, as that of a model sharded by FSDP2 must have; `evaluation_loader` then reads everything.

    In the default mode, where the pass over the training data is run here on a model that is whole, the features of S_f
    are compared with those of samples of that pass: members that are not like the poison that the others show are
    named (`Result.wrong_members`). It costs a forward pass over S_f and over up to 512 samples, and draws no random
    number.

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
        clean_loader: Data that are not poisoned, to measure the damage on; see `ptn_search`. Without them the damage is
            measured, in the default mode, on up to 256 samples that the pass over the training data has seen (not of a
            model that FSDP2 has sharded). A fall of more than ten points is warned of; `max_damage` sets a limit.
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
    for name, given in (("forget", forget), ("retain", retain)):
        if given is not None and not isinstance(given, Importance):
            kind = type(given).__name__
            raise ImportanceError(f"{name} is a {kind}, not an Importance; Importance.load reads one from its file")
    ranks = ranks_for(retain_loader, process_group) if retain is None else Ranks.of(process_group)
    evaluated, evaluated_name = evaluated_loader(forget_loader, evaluation_loader)
    with ranks.raising_together():
        options, search_keywords = _split(passes, keywords)
        settings = search_options(search, search_keywords).resolved()
        chosen = resolve_in_mode(objective, w, settings.mode)
        parameters = ModelParameters.of(model)
        search_group, sharded = search_ranks(parameters, ranks.group or False)
        check_rereadable(forget_loader, "forget_loader")
        if retain is None:
            check_loader(retain_loader, "retain_loader")
        check_search(settings, evaluated, search_group, sharded, inplace, clean_loader, evaluated_name)
        parameters.check_dampenable(to_be_copied=not inplace)
        if missing := (forget is None) + (retain is None):
            check_unlearning(parameters, missing, inplace)
        if not inplace:
            parameters = ModelParameters(copy_model(parameters.wrapped, IN_PLACE))
        if group_size is None:
            group_size = _group_size(settings, forget_loader, retain if forget is None else forget, options.adapter)
        check_group_size(group_size)

    with unchanged(parameters.wrapped, only_on_failure=True):
        with ranks.raising_together():
            _check_given(parameters, forget, retain, chosen, group_size, options)
        unedited = Unedited.of(
            parameters, evaluated, settings, search_group, sharded, options.adapter, clean_loader, evaluated_name
        )
        if unedited.ends_at_once and missing:
            result = not_learnt(unedited, chosen.name, group_size)
            result.forget, result.retain = forget, retain
            return result
        examined = settings.mode == "default" and retain is None and not sharded
        found = features_of_found(parameters, evaluated, options.adapter, ranks) if examined else None
        compute = _Passes(parameters, chosen, group_size, replace(options, process_group=ranks.group or False), ranks)
        importances = {"forget": forget, "retain": retain}
        loaders = {"forget": forget_loader, "retain": retain_loader}
        if found is not None:
            compute.seen.of_labels = KeptOfLabels(found.labels.unique())
        # The cheap one first, as it may fail; the public code's order matters where augmentation is random.
        retain_first = settings.mode == "reference" and options.samples != "auto"
        for name in ("retain", "forget") if retain_first else ("forget", "retain"):
            if (known := importances[name]) is None:
                known = importances[name] = compute(name, loaders[name], on_importance)
            if name == "forget":
                compute.part = partial(_until_known, known, settings, retain_loader)
        forget, retain = importances["forget"], importances["retain"]
        assert forget is not None and retain is not None
        check_same_search(search_group, settings, forget, retain, sharded)
        swapped = swapped_note(forget, retain)
        examined_members = None if swapped else found
        wrong = places_of_wrong_members(parameters, examined_members, compute.seen, options.adapter, ranks)
        notes = swapped + ([wrong_members_note(wrong, len(found or ()), PLACES)] if wrong else [])
        for note in notes:
            warn_caller(note)
        started, watched = time.perf_counter(), settings.mode == "default" and clean_loader is None
        clean = kept_data(unedited, compute.seen.spread) if watched else None
        result = search_from(unedited, forget, retain, options.progress, clean=clean)
        result.seconds = {**compute.seconds, "search": time.perf_counter() - started}
        result.warnings[:0], result.wrong_members = notes, wrong
    if compute.checkpoint is not None:
        compute.checkpoint.remove()
    return result


@dataclass
class _Passes:
    """The passes of one call of `unlearn`.

    Attributes:
        model: The model that is healed.
        objective: Whose importances are computed.
        group_size: Samples whose loss is averaged, or "batch".
        options: Of the long pass.
        ranks: Of the whole method.
        seconds: Wall-clock time of each pass.
        checkpoint: Of the long pass, which is of use until all is done.
        seen: Some samples of the long pass.
        part: What it reads of the data, where `samples` is "auto".
    """

    model: ModelParameters
    objective: Objective
    group_size: GroupSize
    options: PassOptions
    ranks: Ranks
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoint: PassCheckpoint | None = None
    seen: SeenSamples = field(default_factory=SeenSamples)
    part: Callable[[Ranks], KnownThresholds] | None = None

    def __call__(
        self, name: str, loader: Iterable[object], on_importance: Callable[[str, Importance], None] | None
    ) -> Importance:
        """The importances of "forget" or "retain", reported and timed."""
        started = time.perf_counter()
        if name == "retain":
            result, self.checkpoint = self._run(loader, self.options, kept=True)
        elif gives_a_share(loader):
            result, _ = self._run(loader, replace(self.options, checkpoint=None, resume=False, samples=None))
        else:
            alone = replace(self.options, checkpoint=None, resume=False, samples=None, process_group=False)
            with self.ranks.raising_together():
                result, _ = self._run(loader, alone)
            self.ranks.broadcast(result.sums)  # kernels of a GPU may add in another order on each
        self.seconds[name] = time.perf_counter() - started
        with self.ranks.raising_together():
            if on_importance is not None:
                on_importance(name, result)
        return result

    def _run(
        self, loader: Iterable[object], options: PassOptions, kept: bool = False
    ) -> tuple[Importance, PassCheckpoint | None]:
        with data_named("retain_loader" if kept else "forget_loader"):
            results, checkpoint = computed(
                self.model,
                loader,
                self.objective,
                group_size=self.group_size,
                options=options,
                kept=kept,
                seen=self.seen if kept else None,
                part=self.part,
            )
        return results[0], checkpoint


def _check_given(
    parameters: ModelParameters,
    forget: Importance | None,
    retain: Importance | None,
    objective: Objective,
    group_size: GroupSize,
    options: PassOptions,
) -> None:
    """Raise ImportanceError unless importances computed before belong together, or to those that will be computed."""
    if retain is not None and options.samples is not None:
        raise ImportanceError("samples says how much of retain_loader is read, and retain is given: leave one out")
    for given in (forget, retain):
        if given is not None:
            given.check_model(parameters)
    if forget is not None and retain is not None:
        forget.check_same(retain)
    elif (one := forget or retain) is not None:
        sums = one.sums.new_empty(0, dtype=options.dtype)
        one.check_same(replace(one, sums=sums, objective=objective.name, group_size=group_size))


def _until_known(
    forget: Importance, settings: SearchOptions, retain_loader: Iterable[object], ranks: Ranks
) -> KnownThresholds:
    """As much of the training data as the thresholds of the search need."""
    uses_grid = STRATEGIES[settings.strategy].uses_grid
    steps = settings if uses_grid else replace(settings, strategy="sequential")

    def percentiles(samples: int) -> list[float]:
        return [p for _, p in steps.grid(forget.samples, samples)]

    return KnownThresholds(forget, percentiles, known_count(retain_loader), ranks)


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
            known = (*PassKeywords.__annotations__, *SearchKeywords.__annotations__)
            raise TypeError(f"unlearn() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")
    return pass_options(passes, cast(PassKeywords, of_passes)), cast(SearchKeywords, of_search)


def _group_size(
    settings: SearchOptions, forget_loader: Iterable[object], given: Importance | None, adapter: Adapter
) -> GroupSize:
    """That of the importances that are given; the mode's where there are none."""
    if given is not None:
        return given.group_size
    with data_named("forget_loader"):
        return mode_named(settings.mode).group_size_for(count_samples(forget_loader, adapter))
