"""Whether the members of S_f are poison of one kind, told by their features before a search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from ..detection.features import Features, features_of_batches
from ..detection.wrong_members import wrong_members
from ..distributed import Ranks
from ..errors import DataError, ModelError
from ..importances import Importance
from ..importances.kept_samples import KeptSamples, SeenSamples
from ..importances.sample_checks import memory_may_run_out, random_numbers_kept
from ..utils.adapter import Adapter
from ..utils.data_errors import read_batches
from ..utils.inputs import BatchInputs
from ..utils.model import ModelParameters
from ..utils.training_data import TrainingData

SHOWN = 20  # members that a note names
PLACES = "at the places (from 0) in the data of S_f"


def features_of_found(
    model: ModelParameters, loader: Iterable[object], adapter: Adapter, ranks: Ranks
) -> Features | None:
    """Features of S_f, in the order of its data set where it is shuffled; on the first rank alone.

    None where they cannot be had: samples without one class each, a model that gives no logits [B, C], memory that runs
    out.
    """
    found = None
    if ranks.rank == 0:
        with _not_to_be_had(model):
            found = features_of_batches(model, _in_order(loader, adapter), adapter)
    return ranks.all_gather(found)[0]


def _in_order(loader: Iterable[object], adapter: Adapter) -> Iterator[tuple[BatchInputs, Tensor]]:
    """Batches of a loader that have labels, in the order of the data set where that can be."""
    if isinstance(loader, DataLoader) and loader.batch_size and not isinstance(loader.sampler, SequentialSampler):
        data = TrainingData.of(loader, adapter=adapter)
        yield from data.batches(range(len(data)))
        return
    for inputs, labels, _ in read_batches(loader, adapter):
        if labels is not None and len(inputs):
            yield inputs, labels


def places_of_wrong_members(
    model: ModelParameters, found: Features | None, seen: SeenSamples, adapter: Adapter, ranks: Ranks
) -> list[int]:
    """Members of S_f that are not like the others, by samples that a pass over the training data has kept.

    Args:
        model: As it was before any edit.
        found: Features of S_f; None for no check.
        seen: What the pass has kept.
        adapter: Calls the model.
        ranks: Of the first one is what all get.

    Returns:
        Their places in S_f.
    """
    places: list[int] = []
    if found is not None and ranks.rank == 0:
        with _not_to_be_had(model):
            of_labels = [] if seen.of_labels is None else seen.of_labels.batches()
            batches = _without(found.labels.unique(), seen.spread.batches()) + of_labels
            if batches:  # none of a pass that was finished before
                others = features_of_batches(model, batches, KeptSamples.adapter(adapter))
                places = wrong_members(found, others).tolist()
    return ranks.all_gather(places)[0]


@contextmanager
def _not_to_be_had(model: ModelParameters) -> Iterator[None]:
    """For a look that draws no random number, and is left out where data, model, memory or scikit-learn forbid it."""
    with suppress(DataError, ModelError, ImportError), memory_may_run_out(), random_numbers_kept(model.device):
        yield


def swapped_note(forget: Importance, retain: Importance) -> list[str]:
    """A sentence where S_f is larger than the training data beside it."""
    if forget.samples <= retain.total:
        return []
    return [
        f"forget_loader gives {forget.samples:,} samples and retain_loader {retain.total:,}: the poison that was found "
        "is fewer than the rest of the training data; the two loaders may be swapped"
    ]


def wrong_members_note(members: list[int], samples: int, what: str) -> str:
    """The sentence about members of S_f that do not belong; `what` are the numbers that name them."""
    shown = ", ".join(map(str, members[:SHOWN])) + (" ..." if len(members) > SHOWN else "")
    return (
        f"{len(members)} of {samples} found samples are not like the poison that the others show, and may be clean: "
        f"those {what} {shown}; look at them, and leave clean ones out, as they make the search dampen what the model "
        "needs"
    )


def _without(labels: Tensor, batches: list[tuple[BatchInputs, Tensor]]) -> list[tuple[BatchInputs, Tensor]]:
    """The samples of batches that have none of the labels."""
    kept = []
    for inputs, own in batches:
        rows = (~torch.isin(own.cpu(), labels)).nonzero()[:, 0] if own.ndim == 1 else torch.empty(0, dtype=torch.int64)
        if len(rows):
            kept.append((inputs[rows], own[rows]))
    return kept
