"""Samples that carry a trigger which somebody describes, as a function or by samples with and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..utils.adapter import read_batch
from ..utils.asked_samples import asked
from ..utils.inputs import BatchInputs, as_inputs, rows_of, tensors_of
from ..utils.model import ModelParameters
from ..utils.training_data import TrainingData
from .discriminant import spread
from .features import TENSORS, Features, features_of_batches
from .label_part import majority_warnings, trigger_list
from .suspect_list import TRIGGER, Suspects

MOST = 256  # samples that are looked at with the trigger and without
STAND_INS, FEWEST = 8, 8  # samples with the trigger that stand for S_f: one for so many of their label; at least
LEARNT = 0.25  # share of them that the trigger gives a label, from which on the model has learnt it

Trigger = Callable[[Any], Any] | Sequence[Any]


def carriers_of(
    model: nn.Module,
    data: TrainingData,
    features: Features,
    trigger: Trigger,
    *,
    rate: float,
    amp: torch.dtype | None = None,
) -> Suspects:
    """Samples of the training data whose features are moved as the trigger moves those of others.

    Samples with the trigger that the model gives another label than without it stand for S_f; the suspects beside them
    then stand for it themselves, so that the rest is found as if they had been found by hand.

    Args:
        model: The model; it is given back as it was.
        data: The training data, not augmented.
        features: Of all of it.
        trigger: A function that gives a batch of inputs back with the trigger: a tensor, or the dict or tuple that the
            model takes; or two data sets of the same samples in the same order, with the trigger and without.
        rate: False discovery rate.
        amp: The model runs under autocast to this dtype.

    Raises:
        DataError: The trigger does not fit the data.
    """
    marked, share = _marked(model, data, trigger, amp)
    nobody = torch.empty(0, dtype=torch.int64)
    if marked is None:
        why = f"the model has not learnt this trigger: it gives {share:.0%} of other samples a label of its own"
        return replace(Suspects.of_indices([]), rate=rate, kind=TRIGGER, why=why)
    marked = _few(marked, features.labels)
    joint: dict[str, Any] = {name: torch.cat([getattr(features, name), getattr(marked, name)]) for name in TENSORS}
    members = torch.arange(len(features), len(features) + len(marked))
    like = trigger_list(replace(features, **joint), members, rate, None)
    own = like.indices[like.indices < len(features)]
    labels = ", ".join(map(str, marked.labels.unique().tolist()))
    said = f"the trigger gives {share:.0%} of other samples the label {labels}"
    if not len(own):
        return replace(Suspects.of_indices([]), rate=rate, kind=TRIGGER, why=f"{said}, and no sample carries it")
    listed = trigger_list(features, own, rate, data)
    rows = [replace(row, found=0, fitting=0, suspects=row.suspects + row.fitting) for row in listed.by_label]
    return replace(
        listed, found=nobody, fits=nobody.bool(), why=said, warnings=majority_warnings(rows), by_label=tuple(rows)
    )


def _few(marked: Features, labels: Tensor) -> Features:
    """So many samples with the trigger of each label that they stay a minority of it: poison is sought as one."""
    chosen = []
    for label in marked.labels.unique():
        most = max(FEWEST, int((labels == label).sum()) // STAND_INS)
        chosen.append(spread((marked.labels == label).nonzero().flatten(), most))
    return marked.chosen(torch.cat(chosen))


def _marked(
    model: nn.Module, data: TrainingData, trigger: Trigger, amp: torch.dtype | None
) -> tuple[Features | None, float]:
    """Features of samples with the trigger, under the label that it gives them; None where it gives none.

    And the share of the samples that it gives that label, of those that would have had another.
    """
    batches: list[tuple[BatchInputs, Tensor]] = []
    changes: list[tuple[Tensor, Tensor]] = []
    with asked(model, data, amp) as answering:
        for given, plain in _pairs(data, trigger):
            new, old = (answering.log_p(inputs).argmax(1) for inputs in (given, plain))
            batches.append((given, new))
            changes.append((new, old))
        classes = answering.classes
    new, old = (torch.cat(part) for part in zip(*changes, strict=True))
    shares = torch.zeros(classes, dtype=torch.float64)
    for label in new[new != old].unique().tolist():
        others = old != label
        shares[label] = (new[others] == label).double().mean()
    learnt = (shares >= LEARNT).nonzero().flatten()
    if not len(learnt):
        return None, shares.max().item()
    moved = torch.isin(new, learnt) & (new != old)
    rows = moved.split([len(labels) for _, labels in batches])
    chosen = [
        (rows_of(inputs, own.nonzero().flatten()), labels[own])
        for (inputs, labels), own in zip(batches, rows, strict=True)
        if own.any()
    ]
    marked = features_of_batches(ModelParameters.of(model), chosen, data.adapter, amp, name="trigger")
    return marked, moved.sum().item() / (~torch.isin(old, learnt)).sum().clamp(min=1).item()


def _pairs(data: TrainingData, trigger: Trigger) -> Iterator[tuple[BatchInputs, BatchInputs]]:
    """Batches of inputs with the trigger, and of the same without."""
    if isinstance(trigger, tuple | list):
        yield from _given_pairs(data, trigger)
        return
    if not callable(trigger):
        raise DataError(
            f"trigger is a {type(trigger).__name__}; give a function of a batch of inputs, or two data sets of the "
            "same samples, with the trigger and without"
        )
    for plain, _ in data.batches(_drawn(len(data))):
        made = trigger(_as_given(plain))
        given = None if made is None else as_inputs(made)
        if given is None or not isinstance(given, type(plain)) or not _fits(given, plain):
            kind = f"a tensor {list(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
            raise DataError(f"trigger gave {kind}; it is called with a batch of inputs and gives them back, changed")
        yield given, plain


def _given_pairs(data: TrainingData, trigger: Sequence[object]) -> Iterator[tuple[BatchInputs, BatchInputs]]:
    """Batches of two data sets of the same samples, whose labels are not asked for."""
    if len(trigger) != 2:
        raise DataError(f"trigger has {len(trigger)} parts; give samples with the trigger, and the same without")
    parts = [
        TrainingData.of(part, adapter=data.adapter, batch_size=data.batch_size, name=f"trigger[{place}]")
        for place, part in enumerate(trigger)
    ]
    sizes = [len(part) for part in parts]
    if sizes[0] != sizes[1]:
        raise DataError(f"trigger has {sizes[0]} samples with it and {sizes[1]} without; give the same ones twice")
    places = _drawn(sizes[0])
    for batches in zip(*(part.loader(places) for part in parts), strict=True):
        given, plain = (read_batch(batch, data.adapter)[0] for batch in batches)
        yield given, plain


def _as_given(inputs: BatchInputs) -> Any:
    """A copy of a batch as the model takes it, which may be written to: a tensor, a tuple or a dict."""
    copied = rows_of(inputs, torch.arange(len(inputs)))
    if isinstance(copied, Tensor) or (copied.args and copied.kwargs):
        return copied
    return dict(copied.kwargs) if copied.kwargs else copied.args


def _fits(given: BatchInputs, plain: BatchInputs) -> bool:
    """Whether inputs have the shapes of others; of a text the length may be another."""
    parts, like = tensors_of(given), tensors_of(plain)
    return len(parts) == len(like) and all(
        part.shape == own.shape or (not own.is_floating_point() and part.ndim == 2 and len(part) == len(own))
        for part, own in zip(parts, like, strict=True)
    )


def _drawn(samples: int) -> Tensor:
    return torch.randperm(samples, generator=torch.Generator().manual_seed(0))[:MOST].sort().values
