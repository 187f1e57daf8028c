"""What a search begins with: its checks, and the model as it is before any edit, evaluated on S_f."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

from ..distributed import Ranks
from ..errors import ModelError, SearchError
from ..modes import mode_named
from ..utils.adapter import DEFAULT, Adapter
from ..utils.batches import check_rereadable
from ..utils.model import ModelParameters
from .damage import CleanData, clean_data
from .evaluation import Evaluation, largest_output
from .options import SearchOptions
from .parallel import check_reads_everything, check_sharded, first_ranks_score
from .strategies import STRATEGIES, Score


def evaluated_loader(
    forget_loader: Iterable[object], evaluation_loader: Iterable[object] | None
) -> tuple[Iterable[object], str]:
    """The loader that gives S_f for its accuracy, and its name."""
    if evaluation_loader is None:
        return forget_loader, "forget_loader"
    return evaluation_loader, "evaluation_loader"


def check_search(
    settings: SearchOptions,
    loader: Iterable[object],
    ranks: Ranks,
    sharded: bool,
    inplace: bool,
    clean_loader: Iterable[object] | None = None,
    name: str = "forget_loader",
) -> None:
    """All that can be said of a search before the model is evaluated.

    Args:
        settings: Of the search.
        loader: S_f, for the accuracy.
        ranks: Those that search together.
        sharded: The model is sharded over them.
        inplace: The model is not copied.
        clean_loader: Clean data, for the damage.
        name: Of the loader, in errors.

    Raises:
        SearchError: A sharded model that is to be copied, or searched as it cannot be; a limit on the damage without
            data that it is measured on.
        DataError: A loader that can be read once, or gives a share of its samples.
    """
    check_rereadable(loader, name)
    if clean_loader is not None:
        check_rereadable(clean_loader, "clean_loader")
    elif settings.max_damage is not None:
        raise SearchError(
            "max_damage is a limit on the fall of clean accuracy: give clean_loader, data that are not poisoned"
        )
    if sharded:
        check_sharded(STRATEGIES[settings.strategy], inplace)
    if ranks.size > 1:
        check_reads_everything(loader, "forget set", "an evaluation_loader")
        if clean_loader is not None:
            check_reads_everything(clean_loader, "clean data", "a clean_loader")


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
        clean: Clean data, evaluated; None where there are none.
    """

    model: ModelParameters
    settings: SearchOptions
    evaluation: Evaluation
    ranks: Ranks
    sharded: bool
    score: Score
    largest: int
    clean: CleanData | None = None

    @classmethod
    def of(
        cls,
        model: ModelParameters,
        loader: Iterable[object],
        settings: SearchOptions,
        ranks: Ranks,
        sharded: bool,
        adapter: Adapter = DEFAULT,
        clean_loader: Iterable[object] | None = None,
        name: str = "forget_loader",
    ) -> Unedited:
        """The model in eval mode, evaluated once on S_f, from the loader of that name, and on clean data if there are.

        Raises:
            ModelError: Its outputs are not finite.
            DataError: See `predict`.
            SearchError: See `stacked_logits`.
        """
        evaluation = Evaluation(model, loader, adapter, name)
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
        clean = None if clean_loader is None else clean_data(model, clean_loader, ranks, adapter)
        return cls(model, settings, evaluation, ranks, sharded, score, largest[0], clean)

    @property
    def ends_at_once(self) -> bool:
        """Whether no sample of S_f is given its label, in a mode that leaves the model unchanged then."""
        return self.score.accuracy == 0 and not mode_named(self.settings.mode).unlearnt_step
