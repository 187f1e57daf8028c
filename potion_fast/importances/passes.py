"""Importances: a pass over the data that sums up the absolute value or square of every group's gradient."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import overload

import torch
from torch import nn

from ..distributed import Group, Ranks, ranks_for, unwrap_ddp
from ..distributed.fsdp import units
from ..errors import ImportanceError
from ..modes import GroupSize
from ..utils.model import checked_parameters, evaluating
from .local_pass import Pass, Settings
from .objectives import Losses, Objective, resolve
from .result import Importance
from .runner import summed

Spec = str | Losses | Objective


@overload
def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: Spec | None = None,
    *,
    w: float | None = None,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    process_group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    progress: bool = False,
) -> Importance: ...


@overload
def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...],
    *,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    process_group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    progress: bool = False,
) -> list[Importance]: ...


def importance(
    model: nn.Module,
    loader: Iterable[object],
    objective: Spec | list[Spec] | list[Spec | float] | list[str] | tuple[Spec | float, ...] | None = None,
    *,
    w: float | None = None,
    group_size: GroupSize = 1,
    dtype: torch.dtype = torch.float32,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    process_group: Group = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    progress: bool = False,
) -> Importance | list[Importance]:
    """Importance of every trainable parameter over the samples of a loader (paper A, eq. 3 and 4; eq. 1 for SSD).

    model       any nn.Module with its parameters on one device; it runs in eval mode and is left as it was
    loader      batches (input [B, ...], label [B], ...); what follows the label is ignored, and objectives that need
                no labels take batches without them
    objective   "xlf" (default), "lf", "ssd", a registered name, an Objective, or a callable
                (outputs [B, ...], labels [B]) -> losses [B] whose |gradient| is summed. A list of these, and of
                exponents w, gives a list of importances from one pass over the data
    w           instead of an objective: the exponent of ‖f(x)‖₂ in eq. 4
    group_size  the loss is averaged over groups of this many samples in the loader's order, whatever its batch size;
                1 is the equations as printed, "batch" the loader's batches, what the public code does. The last group
                may be smaller and weighs as much as the others
    dtype       float32 or float64, of the sums, and of the products of linear layers and convolutions that go into them
    amp         bfloat16 or float16: run the model under torch.autocast. The result differs by that precision's rounding
    compiled    let torch.compile fuse what lies between the layers, for long passes: it compiles once the third batch
                of a size has come, and takes the memory of all layers' gradients at once. The result differs by
                rounding
    process_group  the ranks of torch.distributed whose loaders each give their share of the samples; the sums are
                then of all of them, with the same bits on every rank. False: this loader gives all. By default its
                sampler says so, see `distributed.ShareSampler`; in a group of several ranks another sampler is an error
    checkpoint  file that keeps what was done, every `checkpoint_seconds` seconds and where the pass is interrupted;
                it is removed when the pass is complete
    resume      go on from the checkpoint where there is one. On the same samples in the same order the result has the
                same bits as that of an unbroken pass. With a ShareSampler each rank has a file, PATH.rank0 and so on,
                in a folder that all ranks see, and any number of ranks goes on from them, no sample being taken twice
    progress    show a progress bar, with samples per second and the time left

    Exact, at the price of one ordinary forward and backward pass per batch: each layer's gradients are summed per group
    as they come by, in the rules of `potion_fast.importances.rules`. All ‖f(x)‖₂^w share one backward pass. Parameters
    that no rule is proved right for go through torch.func or a loop over groups, also exact; `Importance.fallback`
    names them.

    On several ranks a group of samples is of one rank; a ShareSampler cuts shares between the groups of one process.
    DistributedDataParallel and torch.compile's wrapper are looked through. A rank sends 2 (1 - 1 / ranks) n sums to the
    others, once, at the end. Of a model that FSDP2 has sharded (`fully_shard`) each rank gets the importances of its
    own shards, see `sharded`.
    An error on one rank is raised on all of them, when they have come to the end of their shares.

    A batch that does not fit into free memory goes through the model in parts, see `MicroBatches`.

    Raises ImportanceError (no trainable parameter, non-finite loss or importance with its parameter's name, an
    objective of the wrong shape, samples that mix), ModelError (weights not finite, or on several devices), DataError
    (empty loader, labels missing, batches that are not (input, label), another order than the checkpoint's), FileError,
    OutOfMemoryError (the sums, or a single sample, do not fit).
    """
    several = isinstance(objective, (list, tuple))
    if several and w is not None:
        raise ImportanceError("put the exponent w into the list of objectives")
    chosen = (
        [resolve_one(spec) for spec in objective] if isinstance(objective, (list, tuple)) else [resolve(objective, w)]
    )
    if not chosen:
        raise ImportanceError("the list of objectives is empty")
    if group_size != "batch" and (not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1):
        raise ImportanceError(f'group_size is a whole number of at least 1 or "batch", not {group_size!r}')
    if dtype not in (torch.float32, torch.float64):
        raise ImportanceError(f"importances are float32 or float64, not {dtype}")
    if amp not in (None, torch.bfloat16, torch.float16):
        raise ImportanceError(f"amp is torch.bfloat16, torch.float16 or None, not {amp}")
    if resume and checkpoint is None:
        raise ImportanceError("resume=True needs the file to go on from: checkpoint=PATH")

    model, ranks = unwrap_ddp(model), ranks_for(loader, process_group)
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        with ranks.raising_together():
            settings = Settings(chosen, group_size, dtype, amp, compiled)
            run = pass_of(model, checked_parameters(model), settings, ranks)
        position, keeper = summed(run, loader, ranks, checkpoint, checkpoint_seconds, resume, progress)
        with ranks.raising_together():
            results = run.results(position)
    if keeper is not None:
        keeper.remove()
    return results if several else results[0]


def pass_of(model: nn.Module, parameters: dict[str, nn.Parameter], settings: Settings, ranks: Ranks) -> Pass:
    if not units(model):
        return Pass(model, parameters, settings)
    from .fsdp_pass import ShardedPass  # what it imports takes a second

    return ShardedPass(model, parameters, settings, ranks)


def resolve_one(spec: Spec | float) -> Objective:
    """An entry of a list of objectives; a number is an exponent w."""
    return resolve(None, float(spec)) if isinstance(spec, (int, float)) else resolve(spec, None)
