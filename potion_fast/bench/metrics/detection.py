"""Telling the noise that a model was trained with from fresh noise, by the statistic I of its input gradients.

Where I is N(mu, 1) for the one and N(0, 1) for the other, everything here has a closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor

FPR = 0.01  # false positive rate of the paper's test (Pawelczyk et al., 2024)


def threshold(fpr: float = FPR, fresh: Tensor | None = None) -> float:
    """Threshold tau such that |I| > tau for a share `fpr` of independent noises: Phi^-1(1 - fpr / 2), 2.576 at 0.01.

    With I of `fresh` noises, of any shape, it is their empirical quantile.
    """
    if fresh is None:
        return -normal_quantile(fpr / 2).item()
    return quantiles(fresh.abs(), torch.tensor([1 - fpr], dtype=torch.float64)).item()


def true_positive_rate(
    statistics: Tensor,  # [P]
    fpr: float = FPR,
    fresh: Tensor | None = None,
) -> float:
    """Share of poisoned samples that the two-sided test |I| > tau finds, in [0, 1]; `fpr` once all is unlearnt."""
    return (statistics.abs() > threshold(fpr, fresh)).double().mean().item()


def gaussian_true_positive_rate(fpr: Tensor | float, mu: Tensor | float) -> Tensor:
    """What the two-sided test finds where I is N(mu, 1): Phi(mu - tau) + Phi(-mu - tau), float64."""
    tau = -normal_quantile(torch.as_tensor(fpr, dtype=torch.float64) / 2)
    shift = torch.as_tensor(mu, dtype=torch.float64)
    return torch.special.ndtr(shift - tau) + torch.special.ndtr(-shift - tau)


def trade_off(
    statistics: Tensor,  # [P]
    fpr: Tensor,  # [K], in [0, 1]
    fresh: Tensor | None = None,
) -> Tensor:  # [K] float64
    """Miss rate of the one-sided test I > tau at each false positive rate: the trade-off curve of figure 7.

    tau is Phi^-1(1 - FPR), or the empirical quantile of I of `fresh` noises, of any shape.
    """
    tau = -normal_quantile(fpr) if fresh is None else quantiles(fresh, 1 - fpr.double())  # [K]
    ordered = statistics.double().sort().values
    return torch.searchsorted(ordered, tau, right=True).double() / len(ordered)


def gaussian_trade_off(fpr: Tensor | float, mu: Tensor | float) -> Tensor:
    """G_mu(FPR) = Phi(Phi^-1(1 - FPR) - mu), float64: the miss rate where I is N(mu, 1) (Dong et al., 2022)."""
    return torch.special.ndtr(-normal_quantile(fpr) - torch.as_tensor(mu, dtype=torch.float64))


def normal_quantile(p: Tensor | float) -> Tensor:
    """Phi^-1(p), float64."""
    return torch.special.ndtri(torch.as_tensor(p, dtype=torch.float64))


def quantiles(
    values: Tensor,
    p: Tensor,  # [K]
) -> Tensor:  # [K] float64
    """The smallest value that a share p of all does not exceed; below all of them for p = 0."""
    ordered = values.flatten().double().sort().values
    places = (p.double() * len(ordered) - 1e-6).ceil().long()  # [K], from 0 to n; 1e-6 for a p that was rounded up
    return torch.cat([ordered.new_tensor([-torch.inf]), ordered])[places]
