"""One label's samples in their principal components, and groups among them that stand apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .discriminant import Array, Background, Mask, direction, principal_components, shrunk_covariance
from .label_result import LabelResult
from .mixture import Mixture, discovery_rates, p_values, standardised, two_gaussians

ROUNDS = 8  # at most; they end when the set that was grown stays as it is
LEAST_POSTERIOR = 0.2  # of a sample that is called poison
APART = 3.0  # standard deviations of the others between them and the poison, below which nothing is called
FAR_APART = 6.0  # and a minority: poison whoever was found
MINORITY = 0.4
CHANCE = 0.05  # below which it is none that so many members of S_f are in the group
PART_CHANCE = 0.02  # and that all of them are in one part of a group
PART = (
    "{} more stand apart from this label's other samples together with the poison, but no found sample is among them: "
    "they are taken for a kind of their own"
)
RARE_CHANCE = 1e-3  # where several groups are tried
FEW_FOUND = 5  # fewer members of S_f tell nothing by their number: they are taken for poison
SINGLE_STARTS = 16  # members of S_f that are started from one by one


@dataclass(frozen=True)
class LabelSpace:
    """A label's samples and the background in the label's principal components."""

    points: Array  # [n, k]
    others: Array  # [M, k]
    other_labels: NDArray[np.int64]  # [M]
    covariance: Array  # [k, k]

    @classmethod
    def of(cls, samples: Tensor, kept: Tensor, background: Background) -> LabelSpace | None:
        """The space of a label's samples; None where these are all the same.

        Args:
            samples: float32 [n, D], their features.
            kept: Rows that its components are read from in any case.
            background: From other labels.
        """
        basis = principal_components(samples, kept)
        if not basis.shape[1]:
            return None
        points = ((samples.double() - samples.double().mean(0)) @ basis).numpy()
        others = (background.residuals.double() @ basis).numpy()
        if len(others) <= 2 * basis.shape[1]:
            others = others[:0]
        covariance = shrunk_covariance(others if len(others) else points - points.mean(0))
        covariance += 1e-9 * max(float(np.trace(covariance)), 1e-12) * np.eye(len(covariance))
        return cls(points, others, background.labels.numpy()[: len(others)], covariance)

    def group(self, seeds: Mask, found: Mask, taken: Mask, rate: float, *, of_two: bool = False) -> LabelResult | None:
        """The poison that most of the seeds belong to; None where they do not stand apart.

        Args:
            seeds: [n], members of S_f to start from.
            found: [n], S_f.
            taken: [n], samples that another poison has been called for.
            rate: False discovery rate.
            of_two: The label is one of two, and may have kinds of its own.
        """
        grown = self._sought(seeds, ~taken, further=bool(taken.any()))
        if grown is None:
            return None
        result, inside = self._called(*grown, ~taken, found, rate), grown[1].posterior > 0.5
        whole = int(result.called.sum())
        for _ in range(ROUNDS if of_two else 0):
            grown = self._part_of_found(result.called & seeds & found, inside)
            if grown is None:
                break
            part = self._called(*grown, inside, found, rate)
            result = replace(
                part,
                scores=np.where(inside, np.minimum(result.scores, part.scores), result.scores),
                p_values=np.where(inside, np.maximum(result.p_values, part.p_values), result.p_values),
                called=result.called & part.called,
                share=result.share * part.share,
                false=result.false * float(part.called.sum() / inside.sum()) + part.false,
            )
            inside = inside & (grown[1].posterior > 0.5)
        left_out = whole - int(result.called.sum())
        return replace(result, note=PART.format(left_out), doubtful=True) if left_out else result

    def _part_of_found(self, seeds: Mask, inside: Mask) -> tuple[Array, Mixture] | None:
        """The part of a group that all of its found samples are in; None where there is none but the whole.

        One of two classes may have a kind of its own between the others and the poison, and the group that has grown
        holds both. With more classes the part would rather be one source of the poison. A direction from some points
        always has these at its upper end, so each half of the seeds tells of the other half.
        """
        rows = np.flatnonzero(seeds & inside)
        if len(rows) < 2 or len(rows) == inside.sum():
            return None
        chance = 1.0
        for half in (rows[::2], rows[1::2]):
            others = np.setdiff1d(rows, half)
            grown = self._apart(np.isin(np.arange(len(seeds)), half), inside)
            if grown is None or not (grown[1].posterior[others] > 0.5).all():
                return None
            chance *= float((grown[1].posterior > 0.5).sum() / inside.sum()) ** len(others)
        grown = self._apart(seeds & inside, inside)
        return grown if chance < PART_CHANCE and grown is not None and (grown[1].posterior[rows] > 0.5).all() else None

    def _apart(self, seeds: Mask, inside: Mask) -> tuple[Array, Mixture] | None:
        """The part of a group that the seeds are of, where it stands apart."""
        grown = self.grown(seeds, inside, medians(self.points[inside & ~seeds]))
        return None if grown is None or grown[1].separation < APART else grown

    def _called(self, weights: Array, mixture: Mixture, open_rows: Mask, found: Mask, rate: float) -> LabelResult:
        """Samples of the open rows that are called poison, by their scores in a direction."""
        scores = self.points @ weights
        natural = open_rows & (mixture.posterior < 0.5)
        z = standardised(scores, scores[natural])
        p = p_values(z, natural, self._background_scores(weights))
        rest = open_rows & ~found
        likely = open_rows & (mixture.posterior > LEAST_POSTERIOR)
        q = np.ones(len(z))
        q[rest] = discovery_rates(p[rest]) if rest.any() else 1.0
        called = likely & (found | (q <= rate))
        beyond = called & rest
        false = float(q[beyond].max()) * int(beyond.sum()) if beyond.any() else 0.0
        return LabelResult(z, p, called, mixture.share, mixture.separation, false)

    def grown(self, seeds: Mask, open_rows: Mask, start: Array) -> tuple[Array, Mixture] | None:
        """Direction and mixture after rounds with the grown set, in which S_f is not held."""
        poison, middle = seeds, start
        result = None
        for number in range(ROUNDS):
            weights = direction(self.points[poison], middle[None], self.covariance)
            scores = self.points @ weights
            if not np.ptp(scores[open_rows]) > 0:
                return None
            own = np.sort(scores[poison])
            # Members of S_f that do not belong pull its mean down, not that of its upper quarter.
            high = own[-max(1, len(own) // 4) :].mean() if number == 0 else own.mean()
            mixture = two_gaussians(scores[open_rows], float(high), float(np.median(scores[open_rows & ~poison])))
            posterior = np.zeros(len(scores))
            posterior[open_rows] = mixture.posterior
            result = weights, Mixture(posterior, mixture.share, mixture.poison, mixture.others)
            grown = posterior > 0.5
            if not grown.any() or not (open_rows & ~grown).any() or (grown == poison).all():
                break
            poison, middle = grown, self.points[open_rows & ~grown].mean(0)
        return result

    def _sought(self, seeds: Mask, open_rows: Mask, further: bool) -> tuple[Array, Mixture] | None:
        """The first group that stands apart and that S_f is of, from several starts."""
        middle = medians(self.points[open_rows & ~seeds])
        # Where the middle of the label is poison itself, the natural samples are what is farthest from S_f.
        for start in (middle, self._farthest(seeds, open_rows)):
            grown = self.grown(seeds, open_rows, start)
            if grown is not None and _is_poison(grown[1], seeds, further) and self._unlike_others(grown[1], open_rows):
                return grown
        if further or seeds.sum() < FEW_FOUND:
            return None
        # Most of S_f may be wrong.
        rows = np.flatnonzero(seeds)
        singles = [np.isin(np.arange(len(seeds)), row) for row in rows[:: -(-len(rows) // SINGLE_STARTS)]]
        groups = [self.grown(single, open_rows, middle) for single in singles]
        able = [group for group in groups if group is not None and _is_poison(group[1], seeds, further, several=True)]
        return max(able, key=lambda group: group[1].separation, default=None)

    def _unlike_others(self, mixture: Mixture, open_rows: Mask) -> bool:
        """Whether a group that is most of a label spreads less like other labels' samples than the rest of it does."""
        upper = open_rows & (mixture.posterior > 0.5)
        rest = open_rows & ~upper
        if mixture.share < 0.5 or rest.sum() < 2 * len(self.covariance):
            return True
        return self._divergence(self.points[upper]) > self._divergence(self.points[rest])

    def _divergence(self, points: Array) -> float:
        """Kullback–Leibler divergence of a Gaussian with their covariance from one with the background's."""
        ratio = np.linalg.solve(self.covariance, shrunk_covariance(points - points.mean(0)))
        return 0.5 * float(np.trace(ratio) - len(ratio) - np.linalg.slogdet(ratio)[1])

    def _farthest(self, seeds: Mask, open_rows: Mask) -> Array:
        """Middle of the quarter that is farthest from the seeds in the background's metric."""
        rest = self.points[open_rows & ~seeds]
        offset = rest - self.points[seeds].mean(0)
        distance = (offset * np.linalg.solve(self.covariance, offset.T).T).sum(1)
        return medians(rest[np.argsort(distance, kind="stable")[-max(1, len(rest) // 4) :]])

    def _background_scores(self, weights: Array) -> Array:
        """Scores of other labels' samples, standardised label by label."""
        scores = self.others @ weights
        parts = [scores[self.other_labels == label] for label in np.unique(self.other_labels)]
        return np.concatenate([standardised(part, part) for part in parts]) if parts else scores


def _is_poison(mixture: Mixture, seeds: Mask, further: bool, several: bool = False) -> bool:
    """Whether the upper group stands apart from the others, and S_f is of it rather than of the label as a whole.

    Args:
        mixture: Of the label's samples.
        seeds: [n], members of S_f.
        further: Whether a poison of this label is known already, so that the seeds may just be wrong.
        several: Whether this is one of several groups that are tried.
    """
    from scipy.special import bdtrc

    fitting = mixture.posterior[seeds] > 0.5
    # One alone of several may be any outlier, and two that are left over fit the direction that they give.
    if mixture.separation < APART or fitting.sum() < (3 if further else min(2, len(fitting))):
        return False
    if not further and mixture.separation >= FAR_APART and mixture.share < MINORITY:
        return True
    if not (further or several) and len(fitting) < FEW_FOUND and fitting.all() and mixture.share < 0.5:
        return True
    tail = bdtrc(int(fitting.sum()) - 1, len(fitting), mixture.share)  # so many or more by chance
    return bool(tail < (RARE_CHANCE if further or several else CHANCE))


def medians(points: Array) -> Array:
    """Of each component, [k], over samples [n, k]."""
    found: Array = np.median(points, axis=0)
    return found
