"""Label noise by transition matrix: how likely it is that a given label is wrong, from logits that have not seen it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 50  # of EM
PRIOR = 1.0  # samples of any class that a pattern of found samples is smoothed by
ODD = 2e-4  # share of right labels that are odd by nature: no likelihood of a right label is less
ENOUGH = 100  # samples of other labels that it takes to tell how odd right labels are
STARTS = (0.0, -3.0)  # log of the temperature's inverse, logit of twice the share


@dataclass(frozen=True)
class LabelNoise:
    """A fitted model of wrong labels.

    Attributes:
        follows_found: Whether the wrong labels follow the classes of S_f rather than any class.
        share: Of labels that follow the pattern, in the classes' mean.
        wrong: float64 [N], probability that the given label is wrong by the pattern.
        likely: int64 [N], the most likely true class other than the given label.
        ratio: float64 [N], likelihood of the sample where its label is wrong against where it is right.
    """

    follows_found: bool
    share: float
    wrong: Tensor
    likely: Tensor
    ratio: Tensor


def fitted_noise(logits: Tensor, labels: Tensor, found: Tensor) -> LabelNoise:
    """Fit the label noise.

    With p = softmax(a z) of logits z that have not seen the label, a sample of label i has the likelihood

        (1 - o - ε Σ_j M_ij) p_i  +  ε Σ_{k≠i} M_ki p_k  +  o (1 - p_i) / (C - 1),

    the right label, a label wrong by the pattern M, and a right one that is odd by nature; a and ε maximise it over the
    samples that are not of S_f (forward correction: Patrini et al., *Making Deep Neural Networks Robust to Label
    Noise*, 2017). M is uniform, or the classes that S_f's labels are mistaken for, in their direction or in both:
    whatever half of S_f tells the other half's labels by best.

    Args:
        logits: float64 [N, C].
        labels: Given labels, int64 [N].
        found: int64 [F], samples that are known to have wrong labels, most of them.
    """
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[found] = False
    pattern, follows_found = _pattern(logits[found], labels[found])
    return _fitted(logits, labels, rest, pattern, follows_found)


def _pattern(logits: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
    """The pattern that one half of S_f tells the other's labels by best, and whether it is one of S_f's."""
    likely, number = logits.softmax(1), torch.arange(len(labels))
    uniform = _uniform(logits.shape[1])
    evidence = [float(_told(uniform, likely, labels))]
    for both_ways in (False, True):
        halves = [(number % 2 == half, number % 2 != half) for half in (0, 1)]
        evidence.append(
            sum(
                float(_told(_mistaken(likely[one], labels[one], both_ways), likely[other], labels[other]))
                for one, other in halves
            )
        )
    best = max(range(3), key=evidence.__getitem__)
    return (_mistaken(likely, labels, best == 2), True) if best else (uniform, False)


def _mistaken(likely: Tensor, labels: Tensor, both_ways: bool) -> Tensor:
    """Which classes are mistaken for which labels, float64 [C, C]: the mixture of classes that explains S_f, by EM."""
    uniform = _uniform(likely.shape[1])
    pattern = uniform
    for _ in range(ROUNDS):
        shares = pattern.T[labels] * likely
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-300)
        counts = torch.zeros_like(uniform).index_add_(1, labels, shares.T)
        counts = (counts + counts.T) / 2 if both_ways else counts
        pattern = (counts * len(uniform) + PRIOR * uniform) / (len(labels) + PRIOR)
    return pattern


def _told(pattern: Tensor, likely: Tensor, labels: Tensor) -> Tensor:
    """Log-likelihood of labels that are wrong by the pattern."""
    return (pattern.T[labels] * likely).sum(1).clamp(min=1e-300).log().sum()


def _uniform(classes: int) -> Tensor:
    return (1 - torch.eye(classes, dtype=torch.float64)) / (classes - 1)


def _fitted(logits: Tensor, labels: Tensor, rest: Tensor, pattern: Tensor, follows_found: bool) -> LabelNoise:
    """The model of one pattern."""
    given = labels[:, None]
    into, out_of = pattern.T[labels], pattern.sum(1)[labels]  # [N, C], [N]
    parameters = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=60, line_search_fn="strong_wolfe")

    def terms(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        share = parameters[1].sigmoid() / 2
        p = (parameters[0].exp() * logits[rows]).softmax(1)
        right = p.gather(1, given[rows])[:, 0]
        stays = (1 - ODD - share * out_of[rows]).clamp(min=1e-6)
        return (
            stays * right,
            share * (into[rows] * p).sum(1),
            ODD * (1 - right) / max(1, logits.shape[1] - 1),
            p,
        )

    def closure() -> Tensor:
        optimizer.zero_grad()
        likelihood = sum(terms(rest)[:3], start=torch.zeros((), dtype=torch.float64))
        start = torch.tensor(STARTS, dtype=torch.float64)
        loss = 1e-5 * (parameters - start).square().sum() - likelihood.clamp(min=1e-12).log().mean()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        right, by_pattern, odd, p = terms(torch.ones_like(rest))
        if follows_found:  # else other labels have wrong ones too
            right = right * _excess(p, labels, ~torch.isin(labels, labels[~rest]))
        whole = right + by_pattern + odd
        joint = into * p
        frequency = torch.bincount(labels, minlength=len(pattern)).double() / len(labels)
        if_wrong = joint.sum(1) / (into @ frequency).clamp(min=1e-12)
        if_right = p.gather(1, given)[:, 0] / frequency[labels]
        return LabelNoise(
            follows_found=follows_found,
            share=float(parameters[1].sigmoid() / 2),
            wrong=by_pattern / whole,
            likely=joint.scatter(1, given, -1.0).argmax(1),
            ratio=if_wrong / if_right.clamp(min=1e-300),
        )


def _excess(p: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
    """How much more often than p says a right label is as unlikely as the given one, float64 [N], at least 1.

    Told by the samples of labels that S_f does not bear: those with so small a share p_i / max_k p_k of their own
    label, against the number that p gives. Without such samples there is nothing to tell it by.
    """
    if int(clean.sum()) < ENOUGH:
        return torch.ones(len(p), dtype=torch.float64)
    best = p.topk(2, 1).values
    others = torch.where(p == best[:, :1], best[:, 1:], best[:, :1])  # the best other than each label, [N, C]
    shares = (p.clamp(min=1e-300) / others.clamp(min=1e-300)).log()
    own = shares.gather(1, labels[:, None])[:, 0]
    seen = own[clean].sort().values
    told, order = shares[clean].flatten().sort()
    expected = p[clean].flatten()[order].cumsum(0)
    observed = torch.arange(1, len(seen) + 1, dtype=torch.float64)
    ratio = (observed + 1) / (expected[torch.searchsorted(told, seen, right=True).sub(1).clamp(min=0)] + 1)
    ratio = ratio.clamp(min=1).flip(0).cummax(0).values.flip(0)  # no smaller for a less likely label
    return ratio[torch.searchsorted(seen, own).clamp(max=len(seen) - 1)]
