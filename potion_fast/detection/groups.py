"""Groups of a label's samples that stand apart from the others, where no poison has been found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .discriminant import Mask
from .label_space import APART, LabelSpace, medians
from .mixture import Mixture

STARTS = 6  # directions that are started from, both ways
TAIL = 0.05  # share of the samples at the end of one that a start is
FEWEST = 8  # samples of a group
WEAKEST = 0.5  # group: a few odd samples of a class also vary as several classes do
KEPT = 3  # groups of a label
SAME = 0.5  # share of the smaller of two groups in both, from which they are one


@dataclass(frozen=True)
class Group:
    """Samples that stand apart, at most half of the label's.

    Attributes:
        members: [n].
        separation: From the others, in standard deviations of theirs.
    """

    members: Mask
    separation: float

    @property
    def strength(self) -> float:
        """Variance between the two groups, in units of that within the larger: π (1 − π) d², for π of the samples."""
        share = float(self.members.mean())
        return share * (1 - share) * self.separation**2

    def overlaps(self, other: Group) -> bool:
        """Whether the two are one."""
        both = (self.members & other.members).sum()
        return bool(both > SAME * min(self.members.sum(), other.members.sum()))


def groups_of(space: LabelSpace) -> list[Group]:
    """The strongest groups, strongest first; none of fewer than 8 samples, or weaker than 0.5.

    The directions in which the label's samples vary more than those of other labels are started from (spectral
    signatures, Tran et al., *Spectral Signatures in Backdoor Attacks*, 2018, in the others' metric): the samples at
    either end of each are taken for poison, and the set is grown as from samples that were found.
    """
    everything = np.ones(len(space.points), dtype=bool)
    whitened = space.points @ np.linalg.cholesky(np.linalg.inv(space.covariance))
    directions = np.linalg.svd(whitened - whitened.mean(0), full_matrices=False)[2][:STARTS]
    found: list[Group] = []
    for scores in (sign * whitened @ direction for direction in directions for sign in (1, -1)):
        seeds = scores >= np.quantile(scores, 1 - TAIL)
        if seeds.all():
            continue
        grown = space.grown(seeds, everything, medians(space.points[~seeds]))
        group = None if grown is None else _smaller(grown[1])
        if (
            group is not None
            and group.separation >= APART
            and group.members.sum() >= FEWEST
            and group.strength >= WEAKEST
        ):
            found.append(group)
    kept: list[Group] = []
    for group in sorted(found, key=lambda group: -group.strength):
        if len(kept) < KEPT and not any(group.overlaps(other) for other in kept):
            kept.append(group)
    return kept


def _smaller(mixture: Mixture) -> Group:
    """The smaller of the two groups of a mixture."""
    upper = mixture.posterior > 0.5
    larger, members = (mixture.others, upper) if upper.mean() <= 0.5 else (mixture.poison, ~upper)
    return Group(members, (mixture.poison[0] - mixture.others[0]) / larger[1])
