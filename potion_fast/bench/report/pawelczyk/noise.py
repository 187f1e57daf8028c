"""Figures 6 and 7 of Pawelczyk et al.: distributions of I_z, and what a test makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....user.drawing import CLEAN, LARGE, MUTED, SMALL, TRIGGERED
from ...figures.style import canvas, legend
from ...metrics import gaussian_trade_off, gaussian_true_positive_rate, trade_off, true_positive_rate
from ...metrics.detection import FPR
from ...sweep.rows import UNTOUCHED, Row
from ..picture import Picture
from .scope import Group, groups, largest, size_label
from .values import labelled

TITLES = {
    "pawelczyk-figure06": "Figure 6: the dependence I_z of the model on the noise",
    "pawelczyk-figure07": "Figure 7: trade-off curves of a test for the noise",
}
SHOWN = ("ngd", "ptn-xlf")  # the paper's method, and ours; else the first that there are
MISSING = "the sweep has no row of a Gaussian poison"
POINTS = 400  # of a curve
FRESH, AFTER = "#8c6d46", ("#2f6db3", "#6a5d9c")
BINS = (12, 40)  # least and most


@dataclass(frozen=True)
class Sample:
    """I_z of one model over the poisoned samples [P], and what stands above it."""

    text: str
    values: np.ndarray
    color: str

    @property
    def mu(self) -> float:
        """The fitted μ̂ of N(μ, 1), which is the GUS."""
        return float(self.values.mean())

    @property
    def title(self) -> str:
        """Above its histogram."""
        return f"{self.text}\n$\\hat{{\\mu}}$ = {self.mu:.2f}, z = {self.mu * len(self.values) ** 0.5:.1f}"


def noise_pictures(rows: Sequence[Row]) -> list[Picture]:
    """Both figures per attack, data and model."""
    gaussian_groups = groups(rows, "gaussian")
    if not gaussian_groups:
        return [Picture(name, title, missing=MISSING) for name, title in TITLES.items()]
    return [
        draw(group, name)
        for group in gaussian_groups
        for name, draw in zip(TITLES, (_histograms, _curves), strict=True)
    ]


def _chosen(group: Group) -> list[tuple[str, Row]]:
    """(name, row) of two methods at the largest budget and the first seed, of those whose rows have the statistics."""
    rows = [row for row in group.of_size(group.size) if row.statistics and row.method != UNTOUCHED]
    if not rows:
        return []
    seed = min(row.seed for row in rows)
    first = {name: largest(of_method)[0] for name, _, of_method in labelled([row for row in rows if row.seed == seed])}
    order = sorted(
        first.items(), key=lambda item: SHOWN.index(item[1].method) if item[1].method in SHOWN else len(SHOWN)
    )
    names = list(dict.fromkeys(row.method for _, row in order))[: len(AFTER)]
    return [next(item for item in order if item[1].method == name) for name in names]


def _samples(chosen: Sequence[tuple[str, Row]]) -> list[Sample]:
    """Before, and after each method. All have the same model before."""
    statistics = [row.statistics or {} for _, row in chosen]
    samples = [Sample("before", np.asarray(statistics[0]["before"], dtype=float), TRIGGERED)]
    for (name, _), content, color in zip(chosen, statistics, AFTER, strict=False):
        samples.append(Sample(f"after {name}", np.asarray(content["after"], dtype=float), color))
    return samples


def _where(group: Group, row: Row) -> str:
    budgets = "" if row.budget is None else f", budget {100 * row.budget:g} %"
    return f"{group.where}: {size_label([row])} poisoned, seed {row.seed}{budgets}"


def _histograms(group: Group, name: str) -> Picture:
    """Figure 6: fresh noises, the poison before, and after each method, with N(0, 1) and the fitted N(μ̂, 1)."""
    chosen, title = _chosen(group), f"{TITLES[name]}; {group.where}"
    if not chosen:
        return Picture(group.named(name), title, missing="no row has the statistics of the noise")
    samples = _samples(chosen)
    fresh = np.asarray((chosen[0][1].statistics or {}).get("fresh", ()), dtype=float)
    figure, grid = canvas(1, len(samples) + 1, 4.7, sharey=True, sharex=True)
    ends = [-3.5, 3.5, *(float(end(item.values)) for item in samples for end in (np.min, np.max))]
    x = np.linspace(min(ends), max(ends), 400)
    lines: dict[str, Any] = {}
    if len(fresh):  # each quantile is in the middle of its share
        grid[0, 0].hist(fresh, bins=BINS[0], density=True, color=FRESH, alpha=0.45)
    grid[0, 0].set_title("fresh noise\nindependent of the model", fontsize=SMALL)
    for axes, item in zip(grid[0, 1:], samples, strict=True):
        bins = int(np.clip(len(item.values) ** 0.5, *BINS))
        axes.hist(item.values, bins=bins, density=True, color=item.color, alpha=0.45)
        lines[r"fitted N($\hat{\mu}$, 1)"] = axes.plot(x, _density(x, item.mu), color="#222222", ls="--", lw=1.8)[0]
        axes.set_title(item.title, fontsize=SMALL)
    for axes in grid[0]:
        lines["N(0, 1): a model that knows nothing of the noise"] = axes.plot(x, _density(x, 0), color=CLEAN, lw=2)[0]
        axes.set_xlabel("$I_z$", fontsize=LARGE)
    grid[0, 0].set_ylabel("density", fontsize=LARGE)
    legend(figure, dict(reversed(lines.items())), 2)
    spreads = "; ".join(f"{item.text} {item.values.std(ddof=1):.2f}" for item in samples if len(item.values) > 1)
    caption = (
        f"{_where(group, chosen[0][1])}. I_z is the product of a poisoned sample's noise with the direction of the "
        f"model's input gradient, in units of its own spread under independence; P = {len(samples[0].values)}. "
        f"Standard deviations, 1 by theory: {spreads}. Fresh noise: from its quantiles, 0.5 to 99.5 %."
    )
    return Picture(group.named(name), title, caption, figure)


def _density(x: np.ndarray, mu: float) -> np.ndarray:
    density: np.ndarray = np.exp(-((x - mu) ** 2) / 2) / np.sqrt(2 * np.pi)
    return density


def _curves(group: Group, name: str) -> Picture:
    """Figure 7: the one-sided test's miss rate and the two-sided TPR, each with what N(μ̂, 1) gives."""
    chosen, title = _chosen(group), f"{TITLES[name]}; {group.where}"
    if not chosen:
        return Picture(group.named(name), title, missing="no row has the statistics of the noise")
    samples = _samples(chosen)
    figure, grid = canvas(1, 2, 5.4)
    left, right = grid[0]
    linear, low = torch.linspace(0.001, 0.999, POINTS), torch.logspace(-3, -0.001, POINTS)
    lines: dict[str, Any] = {}
    for item in samples:
        text = f"{item.text}, measured"
        values = torch.from_numpy(item.values)
        style: dict[str, Any] = {"color": item.color, "lw": 2}
        lines[text] = left.plot(linear, trade_off(values, linear), **style)[0]
        left.plot(linear, gaussian_trade_off(linear, item.mu), ls="--", **style)
        right.plot(low, 100 * _found(values, low), **style)
        right.plot(low, 100 * gaussian_true_positive_rate(low, item.mu), ls="--", **style)
    lines[r"of N($\hat{\mu}$, 1): $G_\mu$"] = left.plot([], [], color="#222222", ls="--", lw=1.8)[0]
    lines["random guesses"] = left.plot([0, 1], [1, 0], color=MUTED, ls=":", lw=1.8)[0]
    right.plot(low, 100 * low, color=MUTED, ls=":", lw=1.8)
    right.axvline(FPR, color=MUTED, lw=1)
    right.text(FPR * 1.1, 0.97, "FPR 0.01", transform=right.get_xaxis_transform(), va="top", fontsize=SMALL)
    right.set_xscale("log")
    right.set_xticks([0.001, 0.01, 0.1, 1], ["0.001", "0.01", "0.1", "1"])
    left.set_title(r"one-sided test, $I_z > \tau$: the paper's curve", fontsize=LARGE)
    left.set_ylabel("noise that is missed, share", fontsize=LARGE)
    right.set_title(r"two-sided test, $|I_z| > \tau$: figure 2a's rate", fontsize=LARGE)
    right.set_ylabel("noise that is found (TPR), %", fontsize=LARGE)
    for axes in (left, right):
        axes.set_xlabel("false positive rate", fontsize=LARGE)
    legend(figure, lines, 3)
    caption = (
        f"{_where(group, chosen[0][1])}. Thresholds are those of N(0, 1), which independent noise follows exactly. "
        "Left: share of the poisoned samples below the threshold, 1 − TPR, of the one-sided test; dashed "
        "G_μ = Φ(Φ⁻¹(1 − FPR) − μ̂), which is one-sided too. Right: TPR of the two-sided test, dashed "
        "Φ(μ̂ − τ) + Φ(−μ̂ − τ). A model that knows nothing of the noise is on the dotted line."
    )
    return Picture(group.named(name), title, caption, figure)


def _found(values: Tensor, rates: Tensor) -> Tensor:
    """TPR of the two-sided test at each FPR."""
    return torch.tensor([true_positive_rate(values, rate) for rate in rates.tolist()])
