"""What a search begins with: its checks, and the model as it is before any edit, evaluated on S_f."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

from ..distributed import Ranks
from ..errors import ModelError
from ..modes import mode_named
from ..utils.adapter import DEFAULT, Adapter
from ..utils.batches import check_rereadable
from ..utils.model import ModelParameters
from .evaluation import Evaluation, largest_output
from .options import SearchOptions
from .parallel import check_reads_everything, check_sharded, first_ranks_score
from .strategies import STRATEGIES, Score


def check_search(
    settings: SearchOptions,
    loader: Iterable[object],
    ranks: Ranks,
    sharded: bool,
    inplace: bool,
) -> None:
    """All that can be said of a search before the model is evaluated.

    Args:
        settings: Of the search.
        loader: S_f, for the accuracy.
        ranks: Those that search together.
        sharded: The model is sharded over them.
        inplace: The model is not copied.

    Raises:
        SearchError: A sharded model that is to be copied, or searched as it cannot be.
        DataError: A loader that can be read once, or gives a share of S_f.
    """
    check_rereadable(loader, "the loader of the forget set")
    if sharded:
        check_sharded(STRATEGIES[settings.strategy], inplace)
    if ranks.size > 1:
        check_reads_everything(loader)


@dataclass(frozen=True)
class Unedited:
    """A model that is to be searched, as it is before any edit.

    Attributes:
        model: Its parameters.
        settings: Options of the search, resolved.
        evaluation: Its accuracy on S_f as it stands.
        ranks: Those that search together.
        sharded: It is sharded over them.
        score: Its score as it is: acc₀.
        largest: Bytes of the largest output of a module, where the strategy evaluates several candidates at once.
    """

    model: ModelParameters
    settings: SearchOptions
    evaluation: Evaluation
    ranks: Ranks
    sharded: bool
    score: Score
    largest: int

    @classmethod
    def of(
        cls,
        model: ModelParameters,
        loader: Iterable[object],
        settings: SearchOptions,
        ranks: Ranks,
        sharded: bool,
        adapter: Adapter = DEFAULT,
    ) -> Unedited:
        """The model in eval mode, evaluated on S_f once. Raises as `predict` does; ModelError, if it is not finite."""
        evaluation = Evaluation(model, loader, adapter)
        measured = STRATEGIES[settings.strategy].parallel == "batch"
        with largest_output(model.wrapped) if measured else nullcontext([0]) as largest:
            score = first_ranks_score(evaluation, ranks)
        if not score.finite:
            raise ModelError(
                "the model's outputs on the forget set are not finite, before any edit; look for bad inputs or weights"
            )
        if measured:
            with ranks.raising_together():
                evaluation.check_stackable()
        return cls(model, settings, evaluation, ranks, sharded, score, largest[0])

    @property
    def ends_at_once(self) -> bool:
        """Whether no sample of S_f is given its label, in a mode that leaves the model unchanged then."""
        return self.score.accuracy == 0 and not mode_named(self.settings.mode).unlearnt_step
