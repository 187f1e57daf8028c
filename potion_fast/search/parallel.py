"""What a search by several processes needs beside the orders: the same start, the same scores, shared lots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..distributed import Group, Ranks
from ..distributed.fsdp import reshard, shard_ranks
from ..distributed.sampler import shares
from ..errors import DataError, SearchError
from ..importances import Importance
from ..utils.model import trainable
from .strategies import Score

if TYPE_CHECKING:
    from .evaluation import BatchedEvaluation


def searching(model: nn.Module, group: Group) -> tuple[Ranks, bool]:
    """The ranks that search together, and whether the model is sharded over them. Raises ModelError."""
    sharded, shards = reshard(model), shard_ranks(trainable(model))
    return (shards, True) if sharded or shards.size > 1 else (Ranks.of(group), False)


def check_sharded(strategy: str, inplace: bool) -> None:
    """Raise SearchError for what cannot be done with a sharded model."""
    if strategy in ("batched", "minimal"):
        raise SearchError(f'a model sharded by FSDP2 cannot be searched "{strategy}"; take "sequential" or "bisect"')
    if not inplace:
        raise SearchError("a model sharded by FSDP2 cannot be copied; search it with inplace=True")


def check_whole(loader: Iterable[object]) -> None:
    """Raise DataError for a loader that gives each of several ranks its share."""
    if shares(loader):
        raise DataError(
            "the loader gives this rank's share of the forget set, and candidates are evaluated on all of it; give an "
            "evaluation_loader that reads everything"
        )


def marks(importance: Importance, sharded: bool) -> tuple[object, ...]:
    """What tells importances from others, on every rank alike."""
    common = importance.samples, importance.terms, importance.objective, importance.group_size
    if sharded:
        return common
    return *common, importance.fingerprint, int(importance.mean32.view(torch.int32).sum(dtype=torch.int64))


def agreed(evaluate: Callable[[], Score], ranks: Ranks) -> Score:
    """The first rank's score, on all ranks: the rounding of another device must not part them."""
    with ranks.raising_together():
        score = evaluate()
    return ranks.all_gather(score)[0]


class DistributedEvaluation:
    """Several candidates at once, as `BatchedEvaluation` takes them in one process, and each rank its part of them.

    They are as many as the rank with the least memory takes at once, or one for each rank where that is more.
    """

    def __init__(self, several: BatchedEvaluation, ranks: Ranks) -> None:
        self.several, self.ranks = several, ranks
        self.most = max(ranks.size, min(ranks.all_gather(several.most)))

    def __call__(self, alphas: Tensor) -> list[Score]:
        """The scores of the first of these candidates. alphas: [K]."""
        own, scores = alphas[: self.most][self.ranks.rank :: self.ranks.size], list[Score]()
        with self.ranks.raising_together():
            while len(scores) < len(own):
                scores += self.several(own[len(scores) :])
        of_rank = self.ranks.all_gather(scores)
        return [of_rank[k % self.ranks.size][k // self.ranks.size] for k in range(min(self.most, len(alphas)))]
