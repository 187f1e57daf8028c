"""The whole method on one page: importance → thresholds → edits → search (paper A, *Potion*)."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable

import torch
from torch import nn

from .distributed import Group, Ranks, ranks_for
from .distributed.sampler import shares
from .importances import Importance, Objective, importance
from .importances.objectives import Losses
from .modes import GroupSize, mode_named
from .search import Result, check_options, ptn_search
from .utils.batches import count_samples
from .utils.memory import check_unlearning


def unlearn(
    model: nn.Module,
    retain_loader: Iterable[object],
    forget_loader: Iterable[object],
    objective: str | Losses | Objective | None = None,
    *,
    w: float | None = None,
    mode: str = "default",
    group_size: GroupSize | None = None,
    retain: Importance | None = None,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    process_group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    strategy: str = "sequential",
    rho: float = 0.2,
    b_start: float | None = None,
    s_step: float | None = None,
    max_steps: int = 500,
    strict: bool | None = None,
    retain_holds_forget: bool | None = None,
    evaluation_loader: Iterable[object] | None = None,
    inplace: bool = False,
    progress: bool = False,
) -> Result:
    """Remove from a trained model what the found poisoned samples taught it (paper A).

    model                any nn.Module with float32 weights; a copy is healed unless `inplace`
    retain_loader        the training data as the model was trained on it, batches (input, label, ...): without S_f in
                         the default and the reference mode, all of it in mode "paper" (`retain_holds_forget`)
    forget_loader        S_f, the poisoned samples that were found, with the labels they were trained with
    objective, w         see `importance`; XLF by default
    group_size           see `importance`; by default that of `retain`, or the mode's: 64, or as many samples as were
                         found if these are fewer
    retain               importances of the training data computed before; the retain loader is then not read
    amp, compiled        see `importance`, for both passes
    process_group        the ranks of torch.distributed that work together: each gives its share of the training data (a
                         ShareSampler) and all of S_f, and they end with the same healed model. See `importance`, whose
                         default it has; where `retain` is given, all ranks that there are. The importances of S_f are
                         the first rank's, or of all ranks where its loader has a ShareSampler too, as that of a model
                         sharded by FSDP2 must have; `evaluation_loader` then reads everything
    checkpoint, resume   see `importance`, for the pass over the training data: the long one
    strategy             "sequential", "batched", "bisect" or "minimal": how the search goes, see `ptn_search`
    rho, b_start, s_step, max_steps, strict, evaluation_loader, inplace   see `ptn_search`
    mode                 "default", "reference" (the public code) or "paper" (as printed): fills in what is left None

    Returns the model, the trace of every step and why it stopped, see `Result`.

    Raises ImportanceError, SearchError, ModelError, DataError, and OutOfMemoryError before any work where all of it
    will not fit; the caller's model is then as it was.
    """
    ranks = ranks_for(retain_loader, process_group) if retain is None else Ranks.of(process_group)
    together: Group = ranks.group or False
    with ranks.raising_together():
        defaults = mode_named(mode)
        check_options(rho, b_start, s_step, max_steps, strategy, retain_holds_forget)
        check_unlearning(model, 1 if retain is not None else 2, inplace)
        if group_size is None:
            group_size = defaults.group_size_for(count_samples(forget_loader)) if retain is None else retain.group_size
    seconds = {}
    start = time.perf_counter()
    both = functools.partial(
        importance, model, w=w, group_size=group_size, amp=amp, compiled=compiled, progress=progress
    )
    if shares(forget_loader):
        forget = both(forget_loader, objective, process_group=together)
    else:
        with ranks.raising_together():
            forget = both(forget_loader, objective, process_group=False)  # the cheap one first
        ranks.broadcast(forget.sums)  # kernels of a GPU may add in another order on each
    seconds["forget"] = time.perf_counter() - start
    if retain is None:
        start = time.perf_counter()
        retain = both(retain_loader, objective, process_group=together, checkpoint=checkpoint, resume=resume)
        seconds["retain"] = time.perf_counter() - start
    forget.check_same(retain)

    result = ptn_search(
        model,
        forget,
        retain,
        forget_loader,
        strategy=strategy,
        rho=rho,
        mode=mode,
        b_start=b_start,
        s_step=s_step,
        max_steps=max_steps,
        strict=strict,
        retain_holds_forget=retain_holds_forget,
        evaluation_loader=evaluation_loader,
        inplace=inplace,
        process_group=together,
        progress=progress,
    )
    result.seconds = {**seconds, **result.seconds}
    return result
