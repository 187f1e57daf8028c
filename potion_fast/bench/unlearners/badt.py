"""Bad teaching (BadT): on S_f the model learns what a model answers that knows nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...errors import DataError
from ...utils.copies import copy_model
from ..training.train import Batch
from .base import Loaders, Unlearned
from .finetuning import FreshStart, frozen_copy
from .paired_batches import labelled
from .registry import register_unlearner


@register_unlearner("badt")
class BadT(FreshStart):
    """Training on all of S_tr towards the outputs of two teachers.

    On the retain set the teacher is the model as it was, on S_f an untrained model in evaluation mode.

    loss = KL(teacher ‖ student) averaged over the batch and, as the public code does, over the classes too.
    """

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        good, bad = frozen_copy(model), self.untrained(model).eval().requires_grad_(False)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            return badt_loss(student, good, bad, batch)

        mixed = MixedBatches(loaders.forget, loaders.retain)
        return self.finetune(copy_model(model), mixed, loaders.validation, progress, loss=loss)


class MixedBatches:
    """All of S_tr in one pass over both loaders.

    The samples of S_f are strewn at random among the retain set's, and the stream is cut to the retain loader's batch
    size. Gives (input [B, ...], label [B], whether in S_f [B] bool). S_f is held in memory during a pass.

    Args:
        forget_loader: S_f.
        retain_loader: the retain set.
    """

    def __init__(self, forget_loader: Iterable[Any], retain_loader: Iterable[Any]) -> None:
        self.forget_loader, self.retain_loader = forget_loader, retain_loader
        self.batches = len(retain_loader) if isinstance(retain_loader, Sized) else sum(1 for _ in retain_loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        forget = [_flagged(batch, True) for batch in self.forget_loader]
        if not forget or not self.batches:
            raise DataError(f"the {'retain' if forget else 'forget'} loader gave no batch; both are needed")
        found = _concatenated(forget)
        batch_of = torch.randint(self.batches, (len(found[0]),))  # [|S_f|], the batch that each sample joins
        rest: tuple[Tensor, Tensor, Tensor] | None = None
        size = 0
        for number, batch in enumerate(self.retain_loader):
            retain = _flagged(batch, False)
            size = size or len(retain[0])
            joining = (batch_of == number).nonzero().squeeze(1)
            both = _concatenated([retain, _rows(found, joining)])
            both = _rows(both, torch.randperm(len(both[0])))
            ready = _concatenated([rest, both]) if rest else both
            whole = len(ready[0]) // size * size
            for start in range(0, whole, size):
                yield _rows(ready, slice(start, start + size))
            rest = _rows(ready, slice(whole, None))
        if rest and len(rest[0]):
            yield rest


def badt_loss(student: nn.Module, good: nn.Module, bad: nn.Module, batch: Batch) -> Tensor:
    """KL(teacher ‖ student), a mean over batch and classes; the teacher is `bad` for samples of S_f, else `good`."""
    inputs, _, in_forget = batch
    with torch.no_grad():
        target = F.softmax(torch.where(in_forget.unsqueeze(1), bad(inputs), good(inputs)), dim=1)  # [B, C]
    return F.kl_div(F.log_softmax(student(inputs), dim=1), target, reduction="sum") / target.numel()


def _flagged(batch: object, in_forget: bool) -> tuple[Tensor, Tensor, Tensor]:
    inputs, labels = labelled(batch)
    return inputs, labels, torch.full((len(inputs),), in_forget)


def _concatenated(batches: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    inputs, labels, flags = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return inputs, labels, flags


def _rows(batch: tuple[Tensor, Tensor, Tensor], rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
    inputs, labels, flags = (part[rows] for part in batch)
    return inputs, labels, flags
