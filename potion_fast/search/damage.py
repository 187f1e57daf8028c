"""Damage of a search: the clean accuracy of what it keeps, on clean data or on samples of the pass before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..distributed import Ranks
from ..errors import DataError, ModelError
from ..importances.kept_samples import KeptSamples
from ..importances.sample_checks import memory_may_run_out, random_numbers_kept
from ..utils.adapter import Adapter
from ..utils.model import ModelParameters
from .evaluation import Evaluation
from .parallel import first_ranks_score
from .result import CleanAccuracy

if TYPE_CHECKING:
    from .unedited import Unedited

CLEAN_DATA = "the clean data"


@dataclass(frozen=True)
class CleanData:
    """Data on which a search's damage is measured.

    Attributes:
        evaluate: Accuracy in [0, 1] of the model as it stands, the same on every rank; None where it cannot be had.
        before: Of the model before any edit.
        data: For people.
    """

    evaluate: Callable[[], float | None]
    before: float
    data: str

    def allows(self, accuracy: float, most: float) -> bool:
        """Whether an accuracy is at most so many points below that before; not a matter of the last bit."""
        return 100 * (self.before - accuracy) <= most + 1e-9

    def after(self, accuracy: float | None) -> CleanAccuracy | None:
        """The comparison with an accuracy that was measured."""
        return None if accuracy is None else CleanAccuracy(self.before, accuracy, self.data)


def clean_data(model: ModelParameters, loader: Iterable[object], ranks: Ranks, adapter: Adapter) -> CleanData:
    """The caller's clean data, evaluated once. Raises as `predict` does; ModelError if the outputs are not finite."""
    evaluation = Evaluation(model, loader, adapter)
    score = first_ranks_score(evaluation, ranks)
    if not score.finite:
        raise ModelError("the model's outputs on the clean data are not finite, before any edit; look for bad inputs")
    return CleanData(lambda: first_ranks_score(evaluation, ranks).accuracy, score.accuracy, CLEAN_DATA)


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


def _pooled(evaluation: Evaluation, count: int, ranks: Ranks) -> float | None:
    """Accuracy over the samples of all ranks; None, on all of them, where one has failed."""
    right: float | None = None if count else 0.0
    with suppress(DataError, ModelError), memory_may_run_out(), random_numbers_kept(evaluation.parameters.device):
        right = count * evaluation().accuracy if count else 0.0
    gathered = ranks.all_gather((right, count))
    if any(own is None for own, _ in gathered):
        return None
    return sum(own for own, _ in gathered) / sum(own for _, own in gathered)
