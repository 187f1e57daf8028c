"""Search by several processes: the same start and the same scores on each, candidates spread over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..distributed import Group, Ranks
from ..distributed.sampler import gives_a_share
from ..errors import DataError, SearchError
from ..importances import Importance
from ..utils.model import ModelParameters
from .options import SearchOptions
from .strategies import STRATEGIES, Score, Strategy

if TYPE_CHECKING:
    from .evaluation import BatchedEvaluation


def search_ranks(model: ModelParameters, process_group: Group) -> tuple[Ranks, bool]:
    """The ranks that search together, and whether the model is sharded over them.

    Raises:
        ModelError: The parameters are not sharded alike.
    """
    ranks = model.shard_ranks
    return (ranks, True) if model.sharded or ranks.size > 1 else (Ranks.of(process_group), False)


def check_sharded(strategy: Strategy, inplace: bool) -> None:
    """Refuse what cannot be done with a sharded model.

    Raises:
        SearchError: The strategy does not support it, or the model would have to be copied.
    """
    if not strategy.supports_sharded:
        able = " or ".join(f'"{name}"' for name, other in STRATEGIES.items() if other.supports_sharded)
        raise SearchError(f'a model sharded by FSDP2 cannot be searched "{strategy.name}"; take {able}')
    if not inplace:
        raise SearchError("a model sharded by FSDP2 cannot be copied; search it with inplace=True")


def check_reads_everything(loader: Iterable[object], data: str, remedy: str) -> None:
    """Refuse a loader that gives each of several ranks its share.

    Args:
        loader: The loader.
        data: What it reads, for the message.
        remedy: What to give instead.

    Raises:
        DataError: It has a ShareSampler.
    """
    if gives_a_share(loader):
        raise DataError(
            f"the loader gives this rank's share of the {data}, and candidates are evaluated on all of it; give "
            f"{remedy} that reads everything"
        )


def check_same_search(
    ranks: Ranks, options: SearchOptions, forget: Importance, retain: Importance, sharded: bool
) -> None:
    """Check that all ranks search alike.

    Raises:
        ImportanceError: They have other options or other importances.
    """
    if ranks.size > 1:
        importances = [_identity(importance, sharded) for importance in (forget, retain)]
        ranks.check_same({"search": options, "importances": importances})


def _identity(importance: Importance, sharded: bool) -> tuple[object, ...]:
    """What tells importances from others, on every rank alike."""
    common = importance.samples, importance.terms, importance.objective, importance.group_size
    if sharded:
        return common
    return *common, importance.fingerprint, int(importance.mean32.view(torch.int32).sum(dtype=torch.int64))


def first_ranks_score(evaluate: Callable[[], Score], ranks: Ranks) -> Score:
    """The first rank's score, on all ranks: they must not come to differ by the rounding of another device."""
    with ranks.raising_together():
        score = evaluate()
    return ranks.all_gather(score)[0]


class DistributedEvaluation:
    """Scores of several candidates at once, as `BatchedEvaluation` gives them in one process, a part on each rank.

    They are as many as the rank with the least memory takes at once, or one for each rank where that is more.
    """

    def __init__(self, local: BatchedEvaluation, ranks: Ranks) -> None:
        self.local, self.ranks = local, ranks
        self.most = max(ranks.size, min(ranks.all_gather(local.most)))

    def __call__(self, alphas: Tensor) -> list[Score]:
        """The scores of the first of these candidates. alphas: [K]."""
        own, scores = alphas[: self.most][self.ranks.rank :: self.ranks.size], list[Score]()
        with self.ranks.raising_together():
            while len(scores) < len(own):
                scores += self.local(own[len(scores) :])
        of_rank = self.ranks.all_gather(scores)
        return [of_rank[k % self.ranks.size][k // self.ranks.size] for k in range(min(self.most, len(alphas)))]
