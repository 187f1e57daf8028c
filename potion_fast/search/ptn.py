"""The search that users call: a model, its importances and data in; the candidates of a strategy in between."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice
from numbers import Real

from torch import nn

from ..distributed import Group, Ranks, unwrap_ddp
from ..edits.plan import EditPlan
from ..edits.ranked import RankedPlan
from ..errors import PotionWarning, SearchError
from ..importances import Importance
from ..modes import mode_named
from ..percentiles import schedule
from ..utils.progress import bar
from .diagnostics import notes_on
from .evaluation import BatchedEvaluation, Evaluation, largest_output
from .parallel import DistributedEvaluation, agreed, check_sharded, check_whole, marks, searching
from .result import NOT_LEARNT, OUT_OF_STEPS, SATURATED, THRESHOLD_PASSED, Result, Step
from .strategies import Passes, Trial, batched, bisect, minimal, sequential

BLOCK = 64  # steps whose thresholds are computed at a time
S_STEP = 1.1
STRATEGIES: dict[str, Callable[..., Iterator[Trial]]] = {
    "sequential": sequential,
    "batched": batched,
    "bisect": bisect,
    "minimal": minimal,
}

Point = tuple[int, float, float]  # number of a step, s, p


def check_options(
    rho: float,
    b_start: float | None,
    s_step: float | None,
    max_steps: int,
    strategy: str = "sequential",
    retain_holds_forget: bool | None = None,
) -> None:
    """Raise SearchError for a value out of range or an option without effect, before any work is done."""
    for name, value in {"ρ": rho, "b_start": b_start, "s_step": s_step, "max_steps": max_steps}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise SearchError(f"{name} must be a number, not {value!r}")
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise SearchError(f"unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    if not 0 <= rho <= 1:
        raise SearchError(f"ρ must be in [0, 1], not {rho}")
    if b_start is not None and not 0 < b_start < math.inf:
        raise SearchError(f"b_start must be above 0 and finite, not {b_start}")
    if s_step is not None and not 1 < s_step < math.inf:
        raise SearchError(f"s_step must be above 1 and finite, not {s_step}")
    if max_steps < 1:
        raise SearchError(f"max_steps must be at least 1, not {max_steps}")
    of_grid = {"b_start": b_start, "s_step": s_step, "retain_holds_forget": retain_holds_forget}
    for name, value in of_grid.items():
        if strategy == "minimal" and value is not None:
            raise SearchError(f'{name} says where the steps of a search lie; strategy "minimal" has none: leave it out')


def ptn_search(
    model: nn.Module,
    forget: Importance,
    retain: Importance,
    forget_loader: Iterable[object],
    *,
    strategy: str = "sequential",
    rho: float = 0.2,
    mode: str = "default",
    b_start: float | None = None,
    s_step: float | None = None,
    max_steps: int = 500,
    strict: bool | None = None,
    retain_holds_forget: bool | None = None,
    evaluation_loader: Iterable[object] | None = None,
    inplace: bool = False,
    process_group: Group = None,
    progress: bool = False,
) -> Result:
    """Dampen more and more, until the accuracy on S_f has fallen to ρ of what it was (paper A, algorithm 1).

    model                any nn.Module with float32 weights; a copy is changed unless `inplace`
    forget, retain       importances of S_f and of the training data, of this model with these weights
    forget_loader        S_f, with the labels that it was trained with: batches (input, label, ...)
    strategy             how the least edited model that passes is looked for:
                         "sequential"  step after step, as the public code does
                         "batched"     the same steps, several of them evaluated at once through torch.func; meant for a
                                       GPU that one pass over S_f does not fill, on a CPU it takes longer
                         "bisect"      the same steps: one evaluation for every 64, then six among those before the
                                       first that passes
                         "minimal"     no steps: the weights in order of Ω_f / Ω_r, cut after the fewest that pass;
                                       about 2 · log₂ of their number evaluations
                         Where accuracy falls with every edit, the first three end at the same step, and the last at
                         that many weights or fewer.
    rho                  ρ in [0, 1]
    mode                 "default", "reference" or "paper": defaults for what is left None (see `potion_fast.modes`)
    b_start              the search starts at s = b_start · |S_f| / |S_tr|; not for "minimal"
    s_step               s ← s · s_step after every step, above 1; by default 1.1; not for "minimal"
    max_steps            at most so many, for "minimal" evaluations; the public code's cap is 500
    strict               stop below ρ · acc₀ and not at it
    retain_holds_forget  whether `retain` was taken over all of S_tr (|S_tr| = its samples) or over S_tr without S_f;
                         not for "minimal"
    evaluation_loader    S_f for the accuracy, where it should differ from forget_loader (no augmentation, say)
    inplace              change the caller's model; it is restored to the bit should anything fail
    process_group        the ranks of torch.distributed that search together, each with the same model, importances and
                         whole S_f: by default all that there are; False: this process alone. They end with the same
                         weights, trace and reason, those of one process. "sequential" and "batched" deal the candidates
                         out, candidate k to rank k mod their number (the parallel loop of algorithm 1). "bisect" and
                         "minimal", where each candidate depends on the one before, are run by all ranks alike
    progress             show a progress bar

    DistributedDataParallel is looked through. A model that FSDP2 has sharded, with importances of its shards (see
    `EditPlan`), is searched "sequential" or "bisect" and in place, by the ranks that hold it, all trying the same
    candidate; `process_group` is then not used. An error on one rank is raised on all.

    The search ends at α ≤ 1 in every mode: from there on no step changes the model. Where it ends without passing
    the threshold, the most edited model is given back with a warning, as the public code does. Where accuracy does not
    fall with every edit, "bisect" and "minimal" end at an edit that passes, next to one that does not; a warning says
    so if they saw it.

    Raises SearchError (a value out of range, an option that the strategy does not use, a model that torch.func cannot
    evaluate "batched"), ImportanceError (also of ranks that are not given the same), ModelError, DataError (empty
    loader, or one of a share of S_f).
    """
    model, loader = unwrap_ddp(model), forget_loader if evaluation_loader is None else evaluation_loader
    ranks, sharded = searching(model, process_group)
    with ranks.raising_together():
        defaults = mode_named(mode)
        check_options(rho, b_start, s_step, max_steps, strategy, retain_holds_forget)
        strict = defaults.strict if strict is None else strict
        b_start = defaults.b_start if b_start is None else b_start
        retain_holds_forget = defaults.retain_holds_forget if retain_holds_forget is None else retain_holds_forget
        share = forget.samples / (retain.samples + (0 if retain_holds_forget else forget.samples))
        grid = islice(schedule(share, b_start, S_STEP if s_step is None else s_step), max_steps)
        if sharded:
            check_sharded(strategy, inplace)
        if ranks.size > 1:
            check_whole(loader)
        forget.check_model(model)
        if not inplace:
            model = copy.deepcopy(model)
    if ranks.size > 1:
        options = strategy, rho, mode, b_start, s_step, max_steps, strict, retain_holds_forget
        ranks.check_same({"search": options, "importances": [marks(each, sharded) for each in (forget, retain)]})

    start = time.perf_counter()
    evaluate = partial(agreed, Evaluation(model, loader), ranks)
    with largest_output(model) if strategy == "batched" else nullcontext([0]) as largest:
        initial = evaluate()
    threshold = rho * initial.accuracy

    def passes(accuracy: float) -> bool:
        return accuracy < threshold or (accuracy == threshold and not strict)

    reason = NOT_LEARNT if initial.accuracy == 0 and not defaults.unlearnt_step else OUT_OF_STEPS
    device = next(model.parameters()).device
    f, o = (i if i.sums.device == device else i.to(device) for i in (forget, retain))
    trace: list[Step] = []
    best: tuple[Trial, Step] | None = None
    plan: EditPlan | RankedPlan | None = None
    try:
        # Where acc₀ passes there is nothing to halve: the first step is the answer.
        chosen = "sequential" if strategy == "bisect" and passes(initial.accuracy) else strategy
        order = partial(STRATEGIES[chosen], evaluate=evaluate, passes=passes)
        if chosen == "batched":
            with ranks.raising_together():
                several = BatchedEvaluation(model, f, o, loader, largest[0])
            order = partial(batched, evaluate=DistributedEvaluation(several, ranks), passes=passes)
        elif chosen == "sequential" and not sharded:
            order = partial(sequential, evaluate=Evaluation(model, loader), passes=passes, ranks=ranks)
        rounds = _prefixes(model, f, o, ranks) if strategy == "minimal" else _blocks(model, f, o, grid, ranks)
        with bar(what="search", unit="evaluation", shown=progress and ranks.rank == 0) as done:
            for plan, points in rounds if reason == OUT_OF_STEPS else ():
                tried = []
                for trial in islice(order(plan), max_steps):  # cuts "minimal" alone: a grid is cut already
                    number, s, p = points[trial.k] if points else (len(trace) + 1, math.nan, math.nan)
                    trace.append(Step(number, s, p, trial.alpha, trial.accuracy, trial.dampened, trial.seconds))
                    tried.append((trial, trace[-1]))
                    done.update()
                    done.set_postfix_str(f"accuracy on S_f {trial.accuracy:.1%}", refresh=False)
                best = _best(tried, passes)
                if best is not None and passes(best[0].accuracy):
                    reason = THRESHOLD_PASSED
                elif best is None or not best[0].alpha > 1 or (not points and len(trace) < max_steps):
                    reason = SATURATED  # NaN too: no ratio was finite
                if reason != OUT_OF_STEPS:
                    break
        if plan is not None and best is not None:
            plan.apply(best[0].k)
        finite = initial.finite if best is None else best[0].finite
        kept = None if best is None else best[1]
        notes = notes_on(strategy, reason, rho, initial.accuracy, trace, kept, finite)
        for note in notes:
            warnings.warn(note, PotionWarning, stacklevel=2)  # may raise, where a caller makes warnings errors
    except BaseException:
        if plan is not None:
            plan.reset()
        raise
    return Result(
        model=model,
        trace=trace,
        kept=kept,
        reason=reason,
        initial_accuracy=initial.accuracy,
        strategy=strategy,
        rho=rho,
        mode=mode,
        group_size=forget.group_size,
        objective=forget.objective,
        warnings=notes,
        forget=forget,
        retain=retain,
        seconds={"search": time.perf_counter() - start},
    )


def _blocks(
    model: nn.Module, forget: Importance, retain: Importance, grid: Iterator[tuple[float, float]], ranks: Ranks
) -> Iterator[tuple[EditPlan, list[Point]]]:
    """The steps of a grid, block by block: each block's plan, on the original weights, and its (number, s, p)."""
    numbered = enumerate(grid, start=1)
    while block := [(number, s, p) for number, (s, p) in islice(numbered, BLOCK)]:
        with ranks.raising_together():
            plan = EditPlan.at_percentiles(model, forget, retain, [p for _, _, p in block])
        yield plan, block
        plan.reset()


def _prefixes(
    model: nn.Module, forget: Importance, retain: Importance, ranks: Ranks
) -> Iterator[tuple[RankedPlan, list[Point]]]:
    """All in one block, and no steps that its candidates belong to."""
    with ranks.raising_together():
        plan = RankedPlan(model, forget, retain)
    yield plan, []


def _best(tried: list[tuple[Trial, Step]], passes: Passes) -> tuple[Trial, Step] | None:
    """The least edited that passes; where none does, the most edited."""
    passing = [pair for pair in tried if passes(pair[0].accuracy)]
    if passing:
        return min(passing, key=lambda pair: (pair[0].dampened, pair[0].k))
    return max(tried, key=lambda pair: pair[0].k, default=None)
