"""Damage of a search: the clean accuracy of what it keeps, on clean data or on samples of the pass before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..distributed import Ranks
from ..errors import DataError, ModelError
from ..importances.kept_samples import KeptSamples
from ..importances.sample_checks import memory_may_run_out, random_numbers_kept
from ..utils.adapter import Adapter
from ..utils.model import ModelParameters
from .evaluation import ByClass, Evaluation
from .parallel import first_ranks_score
from .result import CLEAN_DATA, ClassAccuracy, CleanAccuracy

if TYPE_CHECKING:
    from .unedited import Unedited


class Counts(NamedTuple):
    """Accuracy in [0, 1], and by class how many samples are right, of how many."""

    accuracy: float
    by_class: ByClass


@dataclass(frozen=True)
class CleanData:
    """Data on which a search's damage is measured.

    Attributes:
        evaluate: Counts of the model as it stands, the same on every rank; None where they cannot be had.
        before: Of the model before any edit.
        data: For people.
    """

    evaluate: Callable[[], Counts | None]
    before: Counts
    data: str

    def allows(self, accuracy: float, most: float) -> bool:
        """Whether an accuracy is at most so many points below that before; not a matter of the last bit."""
        return 100 * (self.before.accuracy - accuracy) <= most + 1e-9

    def after(self, counts: Counts | None) -> CleanAccuracy | None:
        """The comparison with what was measured."""
        if counts is None:
            return None
        by_class = {
            label: ClassAccuracy(n, right / n, counts.by_class[label][0] / n)
            for label, (right, n) in sorted(self.before.by_class.items())
            if label in counts.by_class
        }
        return CleanAccuracy(self.before.accuracy, counts.accuracy, self.data, by_class)


def clean_data(model: ModelParameters, loader: Iterable[object], ranks: Ranks, adapter: Adapter) -> CleanData:
    """The caller's clean data, evaluated once. Raises as `predict` does; ModelError if the outputs are not finite."""
    evaluation = Evaluation(model, loader, adapter, "clean_loader")

    def counts() -> Counts:
        return Counts(first_ranks_score(evaluation, ranks).accuracy, ranks.all_gather(evaluation.by_class)[0])

    score = first_ranks_score(evaluation, ranks)
    if not score.finite:
        raise ModelError("the model's outputs on the clean data are not finite, before any edit; look for bad inputs")
    return CleanData(counts, Counts(score.accuracy, ranks.all_gather(evaluation.by_class)[0]), CLEAN_DATA)


def kept_data(unedited: Unedited, kept: KeptSamples) -> CleanData | None:
    """Samples that a pass over the training data has kept, of all ranks together, evaluated on the unedited model.

    They draw no random number that anything after them would have drawn. None where there are none, where the model is
    sharded, or where their accuracy cannot be had: labels that are no classes, or memory that runs out.
    """
    model, ranks = unedited.model, unedited.ranks
    count = 0 if unedited.sharded else sum(ranks.all_gather(len(kept)))
    if not count:
        return None
    evaluation = Evaluation(model, kept.batches(), kept.adapter(unedited.evaluation.adapter))
    evaluate = partial(_pooled, evaluation, len(kept), ranks)
    before = evaluate()
    return None if before is None else CleanData(evaluate, before, f"{count} samples of the training data")


def _pooled(evaluation: Evaluation, count: int, ranks: Ranks) -> Counts | None:
    """Counts over the samples of all ranks; None, on all of them, where one has failed."""
    right: float | None = None if count else 0.0
    with suppress(DataError, ModelError), memory_may_run_out(), random_numbers_kept(evaluation.parameters.device):
        right = count * evaluation().accuracy if count else 0.0
    gathered = ranks.all_gather((right, count, evaluation.by_class))
    if any(own is None for own, _, _ in gathered):
        return None
    by_class: ByClass = {}
    for _, _, own in gathered:
        for label, (of_label, n) in own.items():
            before = by_class.get(label, (0, 0))
            by_class[label] = before[0] + of_label, before[1] + n
    return Counts(sum(own for own, _, _ in gathered) / sum(own for _, own, _ in gathered), by_class)
