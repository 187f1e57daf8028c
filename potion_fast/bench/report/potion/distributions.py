"""Figures 3, 4, 5 and 7, measured and as the paper's toy; figure 12, the attacks on an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from ....errors import PotionError
from ....user.drawing import CLEAN, FORGET, LARGE, MUTED, SMALL, TRIGGERED, show
from ...figures.style import ORDER, canvas, legend
from ..methods import attack_label
from ..picture import Picture
from .curves import dampened_axis
from .measured_models import MeasuredModel, examples, measure, trained_runs
from .norm_toy import CLASSES, SAMPLES, scaled, tails, toy

NAMES = {0.5: "w = ½", 1.0: "w = 1 (XLF)", 2.0: "w = 2 (LF)", 3.0: "w = 3"}
COLORS = {0.5: ORDER[3], 1.0: CLEAN, 2.0: ORDER[1], 3.0: TRIGGERED}
FIGURES = {4: (1.0, 2.0), 5: (0.5, 3.0)}
TITLES = {
    3: "Figure 3: parameters of small importance to the retain set",
    4: "Figure 4: the norm and its square",
    5: "Figure 5: the norm's root and its cube",
    7: "Figure 7: accuracy on a retain set that still holds poison",
    12: "Figure 12: the attacks",
}
BINS = 50
TENTHS = 10
NORM = r"$\Vert f(x)\Vert^w$"


def distribution_pictures(models: Path, samples: int) -> list[Picture]:
    """Figures 3, 4, 5, 7 and 12; what needs a model is measured on the poisoned ones in `models`. Never raises."""
    runs = trained_runs(models)
    measured, missing = None, "the sweep's folder holds no trained model"
    if samples == 0:
        missing = "it needs a model, and --samples 0 leaves that out"
    elif runs:
        run = runs.get("badnet") or next(iter(runs.values()))
        try:
            measured = measure(run, samples)
        except PotionError as error:
            missing = f"the model {run.name} cannot be measured: {error}"
    pictures = [_ratios(measured, missing)]
    pictures += [_powers(number, exponents, measured, missing) for number, exponents in FIGURES.items()]
    return [*pictures, _contaminated(measured, missing), _attacks(runs, samples, missing)]


def _name(number: int) -> str:
    return f"figure{number:02}"


def _of(measured: MeasuredModel) -> str:
    return f"the model {measured.name}, {measured.samples} clean training images, group size 1"


def _ratios(measured: MeasuredModel | None, missing: str) -> Picture:
    """Figure 3: how importances to the retain set are distributed, and what small ones do to the ratios."""
    if measured is None:
        return Picture(_name(3), TITLES[3], missing=missing)
    figure, grid = canvas(1, 2, 5.0)
    left, right = grid[0]
    lines: dict[str, Any] = {}
    low, high = _decades(measured)
    for w in (1.0, 2.0):
        retain, forget = measured.retain[w], measured.forget[w]
        positive = retain > 0
        logs = np.log10(retain[positive] / np.median(retain[positive]))
        style: dict[str, Any] = {"bins": 80, "range": (low, high), "density": True, "histtype": "step", "lw": 2}
        left.hist(logs, color=COLORS[w], **style)
        ratio = forget[positive] / retain[positive]
        order = np.array_split(np.argsort(retain[positive], kind="stable"), TENTHS)
        for share, ls, text in ((0.999, "-", "highest 0.1 %"), (0.5, ":", "median")):
            y = [float(np.quantile(ratio[part], share)) for part in order if len(part)]
            x = range(1, len(y) + 1)
            (drawn,) = right.plot(x, [value or np.nan for value in y], color=COLORS[w], ls=ls, marker="o", ms=5, lw=2)
            lines[f"{NAMES[w]}: {text}"] = drawn
    left.set_xlabel(r"$\log_{10}$ of $\Omega$ over its median", fontsize=LARGE)
    left.set_ylabel("density of the parameters", fontsize=LARGE)
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    right.set_xticks(range(1, TENTHS + 1))
    right.set_xlabel(r"tenth of the parameters, by $\Omega$ of the retain set", fontsize=LARGE)
    right.set_ylabel(r"$\Omega$ of $S_f$ / $\Omega$ of the retain set", fontsize=LARGE)
    legend(figure, lines, 4)
    zeros = {w: float((measured.retain[w] == 0).mean()) for w in (1.0, 2.0)}
    caption = (
        f"Measured on {_of(measured)}; S_f: {measured.found} poisoned ones. Left: importances Ω to the retain set, in "
        "the colours of the right. Right: ratios of importances, which decide what is dampened, in each tenth of the "
        f"parameters. Parameters with Ω = 0, which are left out: {zeros[1.0]:.1%} at w = 1, {zeros[2.0]:.1%} at w = 2."
    )
    return Picture(_name(3), TITLES[3], caption, figure)


def _decades(measured: MeasuredModel) -> tuple[float, float]:
    """Where log₁₀ Ω / median lies, but for the smallest thousandth."""
    ends = []
    for w in (1.0, 2.0):
        positive = measured.retain[w][measured.retain[w] > 0]
        logs = np.log10(positive / np.median(positive))
        ends.append((np.quantile(logs, 0.001), logs.max()))
    return min(low for low, _ in ends), max(high for _, high in ends)


def _powers(number: int, exponents: Sequence[float], measured: MeasuredModel | None, missing: str) -> Picture:
    """Figures 4 and 5: min-max scaled ‖f‖^w and importances, of uniform outputs and of a model."""
    figure, grid = canvas(1 if measured is None else 2, 2, 4.6 if measured is None else 8.2)
    lines: dict[str, Any] = {}
    tail_texts = []
    for w in exponents:
        uniform = toy(w)
        lines[NAMES[w]] = _histogram(grid[0, 0], uniform.values, w)
        _histogram(grid[0, 1], uniform.importances, w)
        low, high = tails(uniform.importances)
        tail_texts.append(f"{NAMES[w]}: {low:.1%} and {high:.1%}")
        if measured is not None:
            _histogram(grid[1, 0], measured.norms**w, w)
            _histogram(grid[1, 1], measured.retain[w], w, log=True)
    grid[0, 0].set_title("uniform outputs: " + NORM, fontsize=LARGE)
    grid[0, 1].set_title("uniform outputs: importances", fontsize=LARGE)
    if measured is not None:
        grid[1, 0].set_title("a trained model: " + NORM, fontsize=LARGE)
        grid[1, 1].set_title("a trained model: importances", fontsize=LARGE)
    for axes in grid[-1]:
        axes.set_xlabel("min-max scaled", fontsize=LARGE)
    for axes in grid[:, 0]:
        axes.set_ylabel("share, %", fontsize=LARGE)
    legend(figure, lines, 4)
    caption = (
        f"Uniform outputs: {SAMPLES:,} samples of {CLASSES} outputs in [0, 1), which the paper leaves open; "
        "importances are |∂‖f‖^w / ∂f_i| of each sample and output. Of these lie in the lowest and the highest tenth "
        "of the range: "
        f"{'; '.join(tail_texts)}. "
    )
    if measured is None:
        caption += f"Not drawn of a trained model: {missing}."
    else:
        lowest = "; ".join(f"{NAMES[w]}: {tails(measured.retain[w])[0]:.1%}" for w in exponents)
        caption += (
            f"Trained model: {_of(measured)}; importances of its parameters, shares on a logarithmic axis; in the "
            f"lowest tenth: {lowest}."
        )
    return Picture(_name(number), TITLES[number], caption, figure)


def _histogram(axes: Axes, values: np.ndarray, w: float, log: bool = False) -> Any:
    """Shares in percent of min-max scaled values; a filled outline."""
    unit = scaled(values)
    shares = 100 * np.histogram(unit, BINS, (0, 1))[0] / len(unit)
    edges = np.linspace(0, 1, BINS + 1)
    axes.stairs(shares, edges, fill=True, color=COLORS[w], alpha=0.18)
    axes.stairs(shares, edges, color=COLORS[w], lw=2)
    if log:
        axes.set_yscale("log")
    return axes.plot([], [], color=COLORS[w], lw=2)[0]


def _contaminated(measured: MeasuredModel | None, missing: str) -> Picture:
    """Figure 7: what unlearning does to accuracies that are measured with the training data's own labels."""
    if measured is None or len(measured.contaminated) < 2:
        return Picture(_name(7), TITLES[7], missing=missing if measured is None else "no weight could be dampened")
    figure, grid = canvas(1, 2, 5.0)
    steps = measured.contaminated
    x = [step.dampened for step in steps]
    style: dict[str, Any] = {"lw": 2, "marker": "o", "ms": 5, "clip_on": False}
    lines: dict[str, Any] = {}
    for text, color, y in (
        ("clean part of the retain set", CLEAN, [step.clean for step in steps]),
        ("undiscovered poison in it", TRIGGERED, [step.poison for step in steps]),
        ("$S_f$", FORGET, [step.found for step in steps]),
    ):
        ls = ":" if color == FORGET else "-"
        lines[text] = grid[0, 0].plot(x, [100 * value for value in y], color=color, ls=ls, **style)[0]
    lines["retain set, contaminated"] = grid[0, 1].plot(x, [100 * s.retain for s in steps], color=ORDER[3], **style)[0]
    grid[0, 1].plot(x, [100 * step.clean for step in steps], color=CLEAN, **style)
    grid[0, 0].set_ylim(-2, 102)
    for axes in grid[0]:
        dampened_axis(axes, x)
        axes.set_ylabel("given the label of the data, %", fontsize=LARGE)
    legend(figure, lines, 4)
    caption = (
        f"Measured on {_of(measured)}; {measured.found} of S_m count as found, and undiscovered poison is "
        f"{measured.share:.1%} of the retain set. With the labels of the training data, healing it counts as an error."
    )
    return Picture(_name(7), TITLES[7], caption, figure)


def _attacks(runs: dict[str, Path], samples: int, missing: str) -> Picture:
    """Figure 12: an image per attack, before, after, and what changed."""
    if not runs or samples == 0:
        return Picture(_name(12), TITLES[12], missing=missing)
    try:
        shown = examples(runs)
    except PotionError as error:
        return Picture(_name(12), TITLES[12], missing=f"the data cannot be read: {error}")
    columns = max(3, len(shown))
    figure, grid = canvas(3, columns, 7.0)
    for axes in grid[:, len(shown) :].flat:
        axes.remove()
    for column, example in enumerate(shown):
        change = example.attacked - example.clean
        largest = change.abs().max().item()
        for axes, image in zip(grid[:, column], (example.clean, example.attacked, None), strict=True):
            axes.grid(False)
            show(axes, image if image is not None else change / (2 * largest or 1) + 0.5)
            axes.spines[:].set_visible(True)
        grid[0, column].set_title(attack_label(example.attack), fontsize=LARGE)
        grid[1, column].set_xlabel(example.text, fontsize=SMALL, color=MUTED, parse_math=False)
    for axes, text in zip(grid[:, 0], ("clean", "attacked", "difference"), strict=True):
        axes.set_ylabel(text, fontsize=LARGE)
    caption = (
        "The first image whose label the attack changes, of each attack of the sweep; below it, the label it had and "
        "the one that the attack wants. Swaps change the label alone. Differences: grey is none."
    )
    return Picture(_name(12), TITLES[12], caption, figure)
