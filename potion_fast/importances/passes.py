"""Importances from one pass over the data: sums of the absolute value or square of every group's gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import nn
from typing_extensions import Unpack

from ..distributed import Ranks, ranks_for
from ..errors import ImportanceError
from ..modes import GroupSize
from ..utils.model import ModelParameters, differentiable_rnns
from ..utils.unchanged import unchanged
from ..utils.warn import warn_caller
from .checkpoints import PassCheckpoint
from .kept_samples import SeenSamples
from .local_pass import LocalPass
from .objectives import Losses, Objective, resolve
from .options import PassKeywords, PassOptions, pass_options
from .part import FirstSamples, Part
from .result import Importance
from .runner import run_pass

Spec = str | Losses | Objective


@overload
def importance(
    model: nn.Module | ModelParameters,
    loader: Iterable[object],
    objective: Spec | None = None,
    *,
    group_size: GroupSize,
    w: float | None = None,
    options: PassOptions | None = None,
    **keywords: Unpack[PassKeywords],
) -> Importance: ...


@overload
def importance(
    model: nn.Module | ModelParameters,
    loader: Iterable[object],
    objective: list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...],
    *,
    group_size: GroupSize,
    options: PassOptions | None = None,
    **keywords: Unpack[PassKeywords],
) -> list[Importance]: ...


def importance(
    model: nn.Module | ModelParameters,
    loader: Iterable[object],
    objective: Spec | list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...] | None = None,
    *,
    group_size: GroupSize,
    w: float | None = None,
    options: PassOptions | None = None,
    **keywords: Unpack[PassKeywords],
) -> Importance | list[Importance]:
    """Importance of every trainable parameter over the samples of a loader (*Potion*, eq. 3 and 4; eq. 1 for SSD).

    Exact, at the price of one ordinary forward and backward pass per batch: each layer's gradients are summed per group
    as they are computed, in the rules of `potion_fast.importances.rules`. All ‖f(x)‖₂^w share one backward pass.
    A rule is that of the layer's type, or else of the operations that read the parameter, or a weight computed from it
    (weight norm, pruning). Parameters for which no rule is verified go through torch.func or a loop over groups, also
    exact; `Importance.fallback` names them, and a PotionWarning says so where they take a quarter of a long pass.

    On several ranks a group of samples is of one rank; a ShareSampler cuts shares between the groups of one process.
    DistributedDataParallel and torch.compile's wrapper are unwrapped. A rank sends 2 (1 - 1 / ranks) n sums to the
    others, once, at the end. Of a model that FSDP2 has sharded (`fully_shard`) each rank gets the importances of its
    own shards. An error on one rank is raised on all of them, when they have come to the end of their shares.

    A batch that does not fit into free memory goes through the model in parts, see `MicroBatches`.

    Args:
        model: Any nn.Module with its parameters on one device; it runs in eval mode and is unchanged afterwards.
        loader: Batches (input [B, ...], label [B], ...), dicts as Hugging Face's, or whatever the adapter reads, see
            `Adapter`; objectives that need no labels take batches without them.
        objective: "xlf" (default), "lf", "ssd", a registered name, an Objective, or a callable (outputs, labels) ->
            losses [B] whose |gradient| is summed; it gets the model's output and the labels as they are. A
            list of these, and of exponents w, gives a list of importances from one pass over the data.
        group_size: The loss is averaged over groups of this many samples in the loader's order, whatever its batch
            size; 1 is the equations as printed, "batch" the loader's batches, what the public code does, and 64, or as
            many as were found if these are fewer, what `unlearn` takes. The last group may be smaller and weighs as
            much as the others.
        w: Instead of an objective: the exponent of ‖f(x)‖₂ in eq. 4.
        options: How the pass runs: precision, ranks, checkpoints, progress; the defaults of `PassOptions` otherwise.
        **keywords: Fields of `PassOptions`, in place of those of `options`.

    Returns:
        The importances, or a list of them for a list of objectives.

    Raises:
        ImportanceError: No trainable parameter, a non-finite loss or importance (with its parameter's name), an
            objective of the wrong shape, samples that mix, an option out of range.
        ModelError: Weights that are not finite, or on several devices; an output without logits, or with one column
            where the objective needs one for each class.
        DataError: An empty loader, labels missing or no classes, batches of another form, another order than the
            checkpoint's.
        FileError: A checkpoint that cannot be read or written.
        OutOfMemoryError: The sums, or a single sample, do not fit.
        TypeError: A keyword that is no field of `PassOptions`.
    """
    results, checkpoint = computed(model, loader, objective, group_size=group_size, w=w, options=options, **keywords)
    if checkpoint is not None:
        checkpoint.remove()
    return results if isinstance(objective, (list, tuple)) else results[0]


def computed(
    model: nn.Module | ModelParameters,
    loader: Iterable[object],
    objective: Spec | list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...] | None,
    *,
    group_size: GroupSize,
    w: float | None = None,
    options: PassOptions | None = None,
    kept: bool = False,
    seen: SeenSamples | None = None,
    part: Callable[[Ranks], Part] | None = None,
    **keywords: Unpack[PassKeywords],
) -> tuple[list[Importance], PassCheckpoint | None]:
    """As `importance`, and the checkpoint, whose file the caller removes.

    Args:
        model: See `importance`.
        loader: See `importance`.
        objective: See `importance`.
        group_size: See `importance`.
        w: See `importance`.
        options: See `importance`.
        kept: The file is to hold the finished pass, so that one that resumes from it reads nothing.
        seen: Is given some of the samples; None to keep none.
        part: What is read of the data, where `samples` is "auto".
        **keywords: See `importance`.
    """
    several = isinstance(objective, (list, tuple))
    if several and w is not None:
        raise ImportanceError("put the exponent w into the list of objectives")
    chosen = (
        [resolve_one(spec) for spec in objective] if isinstance(objective, (list, tuple)) else [resolve(objective, w)]
    )
    if not chosen:
        raise ImportanceError("the list of objectives is empty")
    check_group_size(group_size)
    chosen_options = pass_options(options, keywords)
    ranks = ranks_for(loader, chosen_options.process_group)
    with torch.inference_mode(False), torch.enable_grad():
        parameters = ModelParameters.of(model)
        with unchanged(parameters.wrapped) as watch, differentiable_rnns(parameters.module):
            with ranks.raising_together():
                parameters.check()
                run = pass_of(parameters, chosen, group_size, chosen_options, ranks)
                run.watch(watch)
                run.kept_samples = seen
                run.part = _part(chosen_options, group_size, ranks, part)
            position, checkpoint = run_pass(run, loader, ranks, kept)
            with ranks.raising_together():
                results = run.results(position)
    if slow := run.slow_layers:
        warn_caller(slow)
    return results, checkpoint


def _part(
    options: PassOptions, group_size: GroupSize, ranks: Ranks, auto: Callable[[Ranks], Part] | None
) -> Part | None:
    """What the pass reads of the data; None for all."""
    if options.samples is None:
        return None
    if options.samples != "auto":
        return FirstSamples(options.samples, group_size, ranks)
    if auto is None:
        raise ImportanceError(
            'samples="auto" compares the thresholds of a search, which unlearn makes; give importance() a number'
        )
    return auto(ranks)


def check_group_size(group_size: GroupSize) -> None:
    """Raise ImportanceError unless it is one."""
    if group_size != "batch" and (not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1):
        raise ImportanceError(f'group_size is a whole number of at least 1 or "batch", not {group_size!r}')


def pass_of(
    model: ModelParameters,
    objectives: list[Objective],
    group_size: GroupSize,
    options: PassOptions,
    ranks: Ranks,
) -> LocalPass:
    """The kind of pass that the model needs."""
    if not model.sharded:
        return LocalPass(model, objectives, group_size, options)
    from .fsdp_pass import ShardedPass  # what it imports takes a second

    return ShardedPass(model, objectives, group_size, options, ranks)


def resolve_one(spec: Spec | float) -> Objective:
    """An entry of a list of objectives; a number is an exponent w."""
    return resolve(None, float(spec)) if isinstance(spec, (int, float)) else resolve(spec, None)
