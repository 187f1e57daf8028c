"""Search for the rest of the poison in the training data, from the samples that were found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Ranks
from ..distributed.ranks import Group
from ..errors import DataError
from ..utils.adapter import Adapter
from ..utils.training_data import TrainingData, check_indices, plain_data
from ..utils.warn import warn_caller
from .described_trigger import Trigger, carriers_of
from .disagreement import disagreeing
from .features import Features, features_of
from .label_part import trigger_list
from .regularity import regularity
from .suspect_list import SWAP, Suspects
from .unknown_poison import unknown_poison

RATE = 0.05


def suspects(
    model: nn.Module,
    train_set: Any,
    found: Iterable[int] | Tensor | None = None,
    *,
    trigger: Trigger | None = None,
    plain_set: Any = None,
    rate: float = RATE,
    adapter: Adapter | None = None,
    amp: torch.dtype | None = None,
    progress: bool = False,
    process_group: Group = None,
) -> Suspects:
    """The rest of the poison in the training data, from the samples that were found; or all of it, where none were.

    One forward pass over the training data keeps the input of the last layer. Among the samples that bear a label of
    S_f, the direction of Fisher's discriminant from the others to S_f is taken in their first principal components,
    with the covariance that samples of other labels have about their own means; scores along it are split into two
    Gaussians; and the direction is taken anew with the samples that were found so, for a few rounds. Where S_f follows
    no such rule (`regularity`), its labels are taken for swapped ones, and samples are sought whose labels a probe that
    has not seen them disagrees with (`disagreeing`).

    Of samples to which the model does not give their label, those are called too whose inputs have the values that the
    suspects' have in common, and that other labels' samples rarely have: a patch that moves no features, because the
    image looks like it anyway (`p_values_of_inputs`).

    Without found samples, each label's samples are looked through for groups that stand apart, and such a group is
    poison if it varies as samples of several classes do (`class_spread`) rather than as those of one. `by_label` has
    the p-value of each label. Those below 0.05 together (Holm) are searched as above, from that group: the chance that
    a label is named where there is no poison is 5 % for the whole training set. Swapped labels and poison that changes
    no label are not found so, nor is any where there are two classes.

    With a trigger that somebody describes, 256 samples are looked at with it and without; those to which it gives a
    label stand for S_f, see `carriers_of`.

    The rate is that of Benjamini and Hochberg's procedure on p-values of the scores, and holds where S_f shows what the
    poison is: members that do not belong are named, but fewer than five of a label are taken for poison.

    Args:
        model: The poisoned model; it is given back as it was.
        train_set: The training data as trained on, read by index: a data set, or a DataLoader over one.
        found: Indices of S_f; None where no poison has been found.
        trigger: In place of `found`: a function that gives a batch of inputs back with the trigger (it gets a copy of
            them as the model takes them: a tensor, a tuple or a dict), or two data sets of the same samples in the
            same order, with it and without.
        plain_set: The same samples in the same order without random augmentation, where `train_set` has some.
        rate: False discovery rate: expected share of false ones among the suspects that are not of S_f, in (0, 1).
        adapter: How batches are read, as for `unlearn`.
        amp: The model runs under autocast to this dtype.
        progress: Show a progress bar.
        process_group: Of torch.distributed, whose ranks share the pass; all get the same suspects.

    Raises:
        DataError: Indices, data or rate that cannot be.
        ModelError: The model is no classifier, or gives what is not finite.
    """
    _check_rate(rate)
    data = plain_data(plain_set, TrainingData.of(train_set, adapter=adapter))
    if found is not None and trigger is not None:
        raise DataError("found and trigger both say what the poison is; give one of them")
    members = None if found is None else _read(found)
    if members is not None:
        check_indices(members, len(data), "found")
    ranks = Ranks.of(process_group)
    features = features_of(model, data, amp=amp, ranks=ranks, progress=progress)
    with ranks.raising_together():
        if members is not None:
            return suspects_from(features, members, rate=rate, data=data)
        if trigger is not None:
            listed = carriers_of(model, data, features, trigger, rate=rate, amp=amp)
        else:
            listed = unknown_poison(model, data, features, rate=rate, amp=amp, progress=progress)
        for text in listed.warnings:
            warn_caller(text)
    return ranks.all_gather(listed)[0]  # devices may round in another way


def suspects_from(
    features: Features, found: Iterable[int] | Tensor, *, rate: float = RATE, data: TrainingData | None = None
) -> Suspects:
    """The rest of the poison, from features of the whole training data. No random number is drawn.

    Args:
        features: Of every sample, in the order of the training data.
        found: Indices of S_f.
        rate: False discovery rate, in (0, 1).
        data: The samples, not augmented, whose inputs are looked at too; None: the features alone.

    Raises:
        DataError: Indices or rate that cannot be, or features that are not finite.
    """
    _check_rate(rate)
    given = _read(found)
    members = check_indices(given, len(features), "found")
    _check_finite(features.features)
    warnings = []
    if len(members) < len(given):
        warnings.append(f"{len(given) - len(members)} of the found samples were given twice and count once")
    measured = regularity(features, members)
    listed = trigger_list(features, members, rate, None if measured.kind == SWAP else data)
    if measured.kind == SWAP:
        listed = disagreeing(features, members, rate, apart=listed)
    listed = replace(listed, why=measured.why, warnings=(*warnings, *listed.warnings))
    for text in listed.warnings:
        warn_caller(text)
    return listed


def _read(found: Iterable[int] | Tensor) -> list[int] | Tensor:
    """Indices that can be read twice."""
    if isinstance(found, Tensor):
        return found
    if not isinstance(found, Iterable):
        raise DataError(f"found must be indices of samples, such as [3, 14], not {found!r}")
    return list(found)


def _check_rate(rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
        raise DataError(f"rate must be a number between 0 and 1, such as 0.05, not {rate!r}")


def _check_finite(features: Tensor) -> None:
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        raise DataError(
            f"the features of the sample {int(bad.nonzero()[0])} of the training set are not finite; poison cannot be "
            "sought with them"
        )
