"""Tables and figures of Pawelczyk et al. from rows that are known, and what a report has of which paper."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from test_report import Links, texts_outside

from helpers.sweep_rows import file_text, with_scores
from potion_fast.bench.report import report_sweep
from potion_fast.bench.report.page import PaperReport
from potion_fast.bench.report.papers import has_pawelczyk_rows
from potion_fast.bench.report.pawelczyk.bars import bar_pictures
from potion_fast.bench.report.pawelczyk.by_budget import along_pictures
from potion_fast.bench.report.pawelczyk.heatmap import COLORS, heatmap
from potion_fast.bench.report.pawelczyk.make import pawelczyk_report
from potion_fast.bench.report.pawelczyk.matrix import ABSENT, NOTHING, UNMEASURED, matrices, matrix_table
from potion_fast.bench.report.pawelczyk.noise import noise_pictures
from potion_fast.bench.report.pawelczyk.paper_values import of_paper, printed
from potion_fast.bench.report.pawelczyk.scope import comparable, groups, size_of_paper
from potion_fast.bench.report.pawelczyk.score_tables import score_tables
from potion_fast.bench.report.pawelczyk.table2 import tables2
from potion_fast.bench.report.pawelczyk.values import labelled
from potion_fast.bench.report.picture import Picture
from potion_fast.bench.report.potion.make import potion_report
from potion_fast.bench.report.table import Table, to_csv, to_markdown
from potion_fast.bench.report.warning_table import warnings_of
from potion_fast.bench.sweep.rows import Row, read_rows

BUDGETS = (0.02, 0.04, 0.06, 0.08, 0.1)
# method -> accuracy after, and how much is left of a poison
METHODS = {
    "retrain": (0.88, 0.02),
    "gd": (0.91, 0.7),
    "ngd": (0.89, 0.35),
    "ga": (0.55, 0.3),
    "cfk-pawelczyk": (0.9, 0.95),
    "euk-pawelczyk": (0.87, 0.9),
    "scrub-pawelczyk": (0.88, 0.6),
    "neggrad-plus": (0.9, 0.75),
    "scrub-kurmanji": (0.86, 0.5),
    "jit": (0.8, 0.8),
}
KINDS = {
    "badnet": "trigger",
    "sine": "trigger",
    "moving": "trigger",
    "targeted": "targeted",
    "indiscriminate": "indiscriminate",
    "gaussian": "gaussian",
    "random-swap": "swap",
}
QUANTILES = [NormalDist().inv_cdf((place + 0.5) / 100) for place in range(100)]


def row(**given: Any) -> dict[str, Any]:
    """One row as a sweep writes it: of GD on a Gaussian poison where nothing else is given."""
    poisoned = given.get("poisoned", 750)
    content = {
        "preset": "exam/mine",
        "attack": "gaussian",
        "data": "cifar10",
        "model": "resnet18",
        "width": None,
        "seed": 0,
        "poisoned": poisoned,
        "found": poisoned,
        "method": "gd",
        "budget": 0.1,
        "settings": {},
        "clean_accuracy": 0.9,
        "before_clean_accuracy": 0.92,
        "reference_clean_accuracy": 0.93,
        "model_damage": -2.0,
        "poison_removed": 40.0,
        "gradient_steps": 3900,
        "training_samples": 50_000,
        "training_steps": 39_000,
        "attack_score": 0.4,
        "before_attack_score": 0.99,
        "reference_attack_score": 0.0,
        "warnings": [],
        "seconds": {},
        "command": f"potion-fast sweep exam/mine --out DIR --only {given.get('attack', 'gaussian')}"
        f"-{given.get('method', 'gd')}-{given.get('budget', 0.1)}-{given.get('seed', 0)}",
    }
    return with_scores({**content, **given})


def scores(kind: str, left: float, clean: float, noise: float) -> dict[str, Any]:
    """All metrics of a kind of poison of whose effect so much is left."""
    if kind == "gaussian":
        mu = 1.6 * left + noise
        tpr = NormalDist().cdf(mu - 2.576) + NormalDist().cdf(-mu - 2.576)
        return {
            "clean_accuracy": clean,
            "base_accuracy": min(1.0, clean + 0.05),
            "gus": mu,
            "gus_error": 0.0365,
            "gus_z": mu * math.sqrt(750),
            "tpr": tpr,
            "tpr_fresh": tpr * 1.02,
        }
    if kind == "targeted":
        hit = float(left + noise > 0.45)
        return {"clean_accuracy": clean, "target_accuracy": 1 - hit, "target_success": hit}
    return {"clean_accuracy": clean, "test_error": 1 - clean}


def whole(
    attacks: Sequence[str] = tuple(KINDS),
    seeds: Sequence[int] = (0, 1),
    sizes: Sequence[int] = (750, 1000, 1250),
    budgets: Sequence[float] = BUDGETS,
    methods: Sequence[str] = (*METHODS, "ptn-xlf", "ptn-lf", "ptn-ssd"),
    **given: Any,
) -> Iterator[dict[str, Any]]:
    """A sweep with methods of Pawelczyk et al. at budgets, and Potion's without."""
    for attack in attacks:
        for size in sizes if KINDS[attack] in ("gaussian", "indiscriminate") else sizes[:1]:
            for seed in seeds:
                for method in ("none", *methods):
                    for budget in budgets if method in METHODS else (None,):
                        yield _unlearnt(attack, size, seed, method, budget, given)


def _unlearnt(
    attack: str, size: int, seed: int, method: str, budget: float | None, given: dict[str, Any]
) -> dict[str, Any]:
    kind, noise = KINDS[attack], np.random.default_rng([size, seed, len(method), int(1000 * (budget or 0))])
    clean, left = METHODS.get(method, (0.9, 0.1) if kind in ("trigger", "swap") else (0.85, 0.8))
    clean, left = (0.92, 1.0) if method == "none" else (clean, left)
    done = 1 if budget is None else (budget / 0.1) ** 0.4
    left = 1 - (1 - left) * done
    before_clean, reference_clean = 0.92, 0.93
    if kind == "indiscriminate":
        before_clean = 0.98 - 0.0002 * size
        clean = before_clean + (reference_clean - before_clean) * (1 - left)
    if method != "none":
        clean = min(1.0, max(0.1, clean + noise.normal(0, 0.004)))
    wobble = 0 if method == "none" else noise.normal(0, 0.03)
    before, after = scores(kind, 1, before_clean, 0), scores(kind, left, clean, wobble)
    reference = scores(kind, 0, reference_clean, 0)
    second = {"gaussian": "gus", "targeted": "target_success", "indiscriminate": "test_error"}.get(kind)
    values = [each[second] if second else value for each, value in ((before, 0.99), (after, left), (reference, 0.01))]
    if not second:
        name = {"trigger": "attack_success_rate", "swap": "memorised_rate"}[kind]
        for each, value in zip((before, after, reference), values, strict=True):
            each[name] = min(value, 1.0)
    searches = method.startswith("ptn-")
    return row(
        attack=attack,
        poisoned=size,
        seed=seed,
        method=method,
        budget=budget,
        rho=0.2 if searches else None,
        s_step=1.1 if searches else None,
        found=size,
        model_damage=100 * (clean - before_clean),
        poison_removed=100 * (values[0] - values[1]) / (values[0] - values[2]),
        scores=after,
        before_scores=before,
        reference_scores=reference,
        gradient_steps=0 if method == "none" else 400 if budget is None else round(39_000 * budget),
        settings={"rates": [1e-06, 5e-06]} if method in METHODS else {},
        statistics=_statistics(before, after, noise) if kind == "gaussian" else None,
        **given,
    )


def _statistics(before: dict[str, Any], after: dict[str, Any], noise: Any) -> dict[str, Any]:
    made = {name: noise.normal(given["gus"], 1, 750).tolist() for name, given in (("before", before), ("after", after))}
    return {**made, "fresh": QUANTILES}


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A sweep's folder with a result file for each row."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(rows):
        path = folder / "results" / f"{one['attack_key']}_{one['seed']}_{one['method']}_{number:05}.json"
        path.write_text(file_text([one]), encoding="utf-8")
    return folder


def rows_of(folder: Path, *given: dict[str, Any]) -> list[Row]:
    return read_rows(write(folder, given) / "results")


def cell(table: Table, method: str, column: str, section: str = "") -> str:
    """The text of a cell; of columns of one name the first."""
    (line,) = (one for one in table.lines if one.cells[0] == method and section in one.section)
    return line.cells[[each.title for each in table.columns].index(column)]


def named(pictures: Sequence[Picture], name: str) -> Figure:
    figure = next(each.figure for each in pictures if each.name == name)
    assert figure is not None
    return figure


# --- table 2


def test_printed_numbers_are_those_of_table_2() -> None:
    wanted = {("gd", 2.0, 0.02): 84.34, ("cfk-pawelczyk", 2.0, 0.1): 72.69, ("euk-pawelczyk", 2.5, 0.04): 33.0}
    wanted |= {("scrub-pawelczyk", 1.5, 0.1): 85.48, ("retrain", 2.5, 0.08): 89.14, ("ga", 1.5, 0.06): 10.0}
    for (method, size, budget), value in {**wanted, ("none", 2.5, None): 69.62}.items():
        found = of_paper(method, size, budget)
        assert found is not None and found.mean == value
    assert len({(one.method, one.size, one.budget) for one in printed()}) == len(printed()) == 3 + 5 + 15 + 60
    assert of_paper("gd", 2.0, None) is None and of_paper("jit", 2.0, 0.02) is None


def test_table_2_holds_our_values_over_the_seeds_and_the_papers(tmp_path: Path) -> None:
    given = {"attack": "indiscriminate", "poisoned": 1000, "budget": 0.06, "before_clean_accuracy": 0.7}
    values = (0.81, 0.83, 0.86)
    rows = rows_of(tmp_path, *(row(**given, seed=seed, clean_accuracy=value) for seed, value in enumerate(values)))
    (made,) = tables2(rows)
    assert cell(made, "GD", "6 %") == f"{fmean([81, 83, 86]):.2f} ± {stdev([81, 83, 86]):.2f}"
    place = [each.title for each in made.columns].index("6 %")
    (entry,) = (one for one in made.lines if one.cells[0] == "GD")
    assert entry.cells[place + 1] == "86.88" and entry.cells[place + 2] == "–" and entry.section.startswith("2 %")
    assert cell(made, "CFk", "6 %") == "–" and cell(made, "no unlearning", "no budget").startswith("70.00")
    assert len(entry.commands) == 3 and "indiscriminate-gd-0.06-2" in entry.commands[2]
    text = to_markdown(made)
    assert "--only indiscriminate-gd-0.06-0` and 2 more" in text and "NGP" in text


def test_table_2_in_full_precision_names_every_command(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, row(attack="indiscriminate", clean_accuracy=0.7654321))
    lines = list(csv.DictReader(to_csv(tables2(rows)[0]).splitlines(keepends=True)))
    (ours,) = (one for one in lines if one["method"] == "GD" and one["rows"])
    assert float(ours["test_accuracy"]) == 100 * 0.7654321 and ours["paper"] == "87.71" and ours["budget"] == "0.1"
    assert ours["commands"] == rows[0].command and ours["over_seeds"] == ""


def test_sizes_far_from_the_papers_are_not_compared_with_its_values(tmp_path: Path) -> None:
    given: dict[str, Any] = {"attack": "indiscriminate", "data": "digits", "training_samples": 1000}
    rows = rows_of(tmp_path, row(**given, poisoned=15), row(**given, poisoned=40), row(**given, poisoned=21))
    assert {one.poisoned: size_of_paper(one) for one in rows} == {15: 1.5, 21: 2.0, 40: None}
    (made,) = tables2(rows)
    assert not any("40 samples" in str(one["poisoned"]) and one["paper"] for one in made.records)
    assert any("15 samples" in str(one["poisoned"]) and one["paper"] == 87.71 for one in made.records)


# --- which rows


def test_rows_with_most_of_s_m_found_are_taken_and_searches_at_the_default(tmp_path: Path) -> None:
    given = [row(found=75), row(found=750), row(method="ptn-xlf", budget=None, rho=0.2, s_step=1.1)]
    given += [row(method="ptn-xlf", budget=None, rho=0.5, s_step=1.1), row(poisoned=1000, found=500)]
    kept = comparable(rows_of(tmp_path, *given))
    assert sorted((one.method, one.poisoned, one.found) for one in kept) == [
        ("gd", 750, 750),
        ("gd", 1000, 500),
        ("ptn-xlf", 750, 750),
    ]


def test_two_attacks_of_a_kind_are_kept_apart(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *(row(attack=name) for name in ("gaussian", "gaussian")), row(attack="gaussian", width=8))
    made = groups(rows, "gaussian")
    assert [(len(one.rows), one.named("pawelczyk-x")) for one in made] == [
        (2, "pawelczyk-x"),
        (1, "pawelczyk-x-gaussian-cifar10-resnet18-8"),
    ]


def test_names_contain_only_the_settings_that_differ(tmp_path: Path) -> None:
    noises = [{"variance": value, "rates": [1e-6]} for value in (1e-7, 1e-6)]
    rows = rows_of(tmp_path, *(row(method="ngd", settings=each) for each in noises), row(settings={"rates": [1e-6]}))
    assert [name for name, _, _ in labelled(rows)] == ["GD", "NGD (variance = 1e-06)", "NGD (variance = 1e-07)"]
    budgets = rows_of(tmp_path / "b", row(budget=0.04), row(budget=0.1))
    assert [(name, len(some)) for name, _, some in labelled(budgets)] == [("GD", 2)]


# --- the matrix


def test_a_cell_of_the_matrix_is_of_the_largest_budget_and_all_seeds(tmp_path: Path) -> None:
    given = [row(seed=seed, poison_removed=removed, model_damage=-seed) for seed, removed in enumerate((40.0, 50.0))]
    given.append(row(budget=0.04, poison_removed=1.0))
    (made,) = matrices(rows_of(tmp_path, *given))
    one = made.cells["GD", "gaussian"]
    assert one.removed is not None and one.damage is not None
    assert (one.removed.mean, one.removed.over_seeds) == (45.0, pytest.approx(stdev([40, 50])))
    assert one.damage.mean == -0.5 and one.compute == 10.0 and not one.missing and not one.mark
    table = matrix_table(made)
    assert cell(table, "GD", "Gaussian noise: removed, %") == "45.0 ± 7.1"
    assert table.lines[0].cells[-1] == "10 %" and len(table.lines[0].commands) == 2


def test_a_cell_without_a_value_says_why(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"poison_removed": None, "before_attack_score": 0.0}
    given = [
        row(attack="targeted", **nothing, reference_attack_score=0.005),
        row(attack="badnet", poison_removed=None, reference_attack_score=None),
        row(attack="sine"),
        row(attack="sine", method="ga"),
    ]
    (made,) = matrices(rows_of(tmp_path, *given))
    assert made.attacks == ["badnet", "sine-wave", "targeted"]
    assert [made.cells["GD", attack].missing for attack in made.attacks] == [UNMEASURED, "", NOTHING]
    assert [made.cells["GA", attack].missing for attack in made.attacks] == [ABSENT, "", ABSENT]
    assert cell(matrix_table(made), "GD", "targeted: removed, %") == NOTHING


def test_the_gus_is_compared_with_that_of_noise_that_was_never_seen(tmp_path: Path) -> None:
    given = {"poison_removed": None, "before_attack_score": 0.005, "reference_attack_score": 0.14}
    (made,) = matrices(rows_of(tmp_path, row(attack="gaussian", **given)))
    assert made.cells["GD", "gaussian"].missing == NOTHING


def test_a_retraining_as_a_whole_and_one_held_to_a_budget_are_two_lines(tmp_path: Path) -> None:
    given = [row(method="retrain", budget=None, gradient_steps=39_000, poison_removed=100.0)]
    given += [row(method="retrain", budget=budget, poison_removed=90.0) for budget in (0.04, 0.1)]
    rows = rows_of(tmp_path, *given)
    (made,) = matrices(rows)
    assert made.methods == ["Retrain, no budget", "Retrain"]
    assert [made.compute_label(name) for name in made.methods] == ["100 %", "10 %"]
    (line,) = (name for name, _, some in labelled(rows) if len(some) == 3)  # table 2 has a column for each
    assert line == "Retrain"


@pytest.mark.parametrize(
    ("attack", "before", "marked"),
    [
        ("badnet", {"before_attack_score": 0.79}, True),
        ("badnet", {"before_attack_score": 0.81}, False),
        ("targeted", {"before_attack_score": 0.25, "reference_attack_score": 0.0}, True),
        ("targeted", {"before_attack_score": 1.0, "reference_attack_score": 0.0}, False),
        ("indiscriminate", {"before_attack_score": 0.1, "reference_attack_score": 0.095}, True),
        ("indiscriminate", {"before_attack_score": 0.3, "reference_attack_score": 0.1}, False),
        ("gaussian", {"before_scores": {"gus_z": 2.0}}, True),
        ("gaussian", {"before_scores": {"gus_z": 3.0}, "before_attack_score": 1.3}, False),
    ],
)
def test_an_attack_that_hardly_took_is_marked(
    tmp_path: Path, attack: str, before: dict[str, Any], marked: bool
) -> None:
    (made,) = matrices(rows_of(tmp_path, row(attack=attack, **before)))
    (one,) = made.cells.values()
    assert bool(one.mark) == marked
    assert any("in 1 of 1 rows the attack had hardly taken" in note for note in matrix_table(made).notes) == marked


def test_the_heat_map_writes_removal_damage_and_compute_and_hatches_the_rest(tmp_path: Path) -> None:
    given = [row(poison_removed=-12.4, model_damage=-3.21), row(attack="badnet", poison_removed=97.0, model_damage=0.4)]
    given.append(row(method="ga", gradient_steps=390, budget=None))
    figure = heatmap(matrices(rows_of(tmp_path, *given))[0]).figure
    assert figure is not None
    axes = figure.axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert {"−12 %\n−3.2", "97 %\n+0.4", "40 %\n−2.0", "no row", "10 %", "1 %"} <= texts
    hatched = [one for one in axes.patches if isinstance(one, Rectangle) and one.get_hatch()]
    assert [one.get_xy() for one in hatched] == [(-0.5, 0.5)]  # GA on BadNet
    assert not texts_outside(figure)


def test_the_heat_maps_colours_darken_all_the_way() -> None:
    colors = LinearSegmentedColormap.from_list("removed", COLORS)(np.linspace(0, 1, 64))[:, :3]
    assert np.all(np.diff(colors @ [0.299, 0.587, 0.114]) < 0)


def test_names_above_the_heat_map_do_not_overlap(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *whole(seeds=(0,), sizes=(750,), budgets=(0.1,), methods=("gd", "scrub-pawelczyk")))
    figure = heatmap(matrices(rows)[0]).figure
    assert figure is not None
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) == 7 and all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


# --- Gaussian and targeted poisons


def test_scores_before_after_and_of_the_reference_stand_in_lines_of_their_own(tmp_path: Path) -> None:
    given = [row(seed=seed, scores=scores("gaussian", 0.5, 0.9, noise)) for seed, noise in ((0, 0.0), (1, 0.1))]
    for one in given:
        one |= {"before_scores": scores("gaussian", 1, 0.92, 0), "reference_scores": scores("gaussian", 0, 0.93, 0)}
    gaussian, targeted = score_tables(rows_of(tmp_path, *given))
    assert cell(gaussian, "GD", "GUS") == "0.85 ± 0.07" and cell(gaussian, "GD", "budget") == "10 %"
    assert cell(gaussian, "no unlearning", "GUS") == "1.60 ± 0.00"
    assert cell(gaussian, "trained without the poison", "TPR at FPR 0.01, %") == "1.00 ± 0.00"
    assert targeted.missing == "the sweep has no row of a targeted poison"


def gaussian_rows(folder: Path) -> list[Row]:
    """A poison that is as N(1.5, 1) before and N(1, 1) after, by its quantiles."""
    places = (np.arange(2000) + 0.5) / 2000
    before, after = ([NormalDist(mu, 1).inv_cdf(place) for place in places] for mu in (1.5, 1.0))
    statistics = {"before": before, "after": after, "fresh": QUANTILES}
    return rows_of(folder, row(method="ngd", statistics=statistics, scores=scores("gaussian", 0.5, 0.9, 0)))


def test_the_trade_off_curve_is_one_sided_and_the_tpr_two_sided(tmp_path: Path) -> None:
    left, right = named(noise_pictures(gaussian_rows(tmp_path)), "pawelczyk-figure07").axes
    _, _, measured, analytic, *_ = left.lines
    at = [float(np.interp(0.01, *map(np.asarray, line.get_data()))) for line in (measured, analytic)]
    assert at == pytest.approx([1 - 0.0924, 1 - 0.0924], abs=2e-3)
    _, _, measured, analytic, *_ = right.lines
    at = [float(np.interp(0.01, *map(np.asarray, line.get_data()))) for line in (measured, analytic)]
    assert at == pytest.approx([5.77, 5.77], abs=0.12)
    assert "one-sided" in left.get_title() and "two-sided" in right.get_title()


def test_figure_6_fits_the_mean_and_draws_fresh_noise_as_its_quantiles(tmp_path: Path) -> None:
    fresh, before, after = named(noise_pictures(gaussian_rows(tmp_path)), "pawelczyk-figure06").axes
    assert "1.50" in before.get_title() and "1.00" in after.get_title() and "NGD" in after.get_title()
    (dashed,) = (line for line in after.lines if line.get_linestyle() == "--")
    x, y = map(np.asarray, dashed.get_data())
    assert x[y.argmax()] == pytest.approx(1.0, abs=0.02) and y.max() == pytest.approx(0.3989, abs=1e-3)
    assert sum(bar.get_width() * bar.get_height() for bar in fresh.patches) == pytest.approx(1)  # type: ignore[attr-defined]


def test_figure_2a_draws_bars_with_the_references_of_both_panels(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *whole(attacks=("gaussian",), methods=("gd", "ptn-xlf")))
    figure = named(bar_pictures(rows), "pawelczyk-figure02a")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["PTN-XLF", "GD"]
    upright = [float(np.asarray(line.get_xdata())[0]) for line in left.lines if line.get_linestyle() in (":", "-")]
    assert 1.0 in upright and any(value == pytest.approx(16.45, abs=0.01) for value in upright)
    dashed = [float(np.asarray(line.get_xdata())[0]) for line in right.lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx(93)]
    gd = [one for one in rows if one.method == "gd" and one.budget == 0.1 and one.poisoned == 750]
    rates = [100 * one.scores["tpr"] for one in gd if one.scores]
    spread = [np.asarray(line.get_xdata(), dtype=float) for line in left.lines if line.get_linewidth() == 1.2]
    assert spread[1] == pytest.approx([fmean(rates) - stdev(rates), fmean(rates) + stdev(rates)])
    assert left.patches[1].get_width() == pytest.approx(fmean(rates))  # type: ignore[attr-defined]
    assert not texts_outside(figure)


def test_figures_8_and_9_need_several_budgets_and_sizes(tmp_path: Path) -> None:
    given = {"attacks": ("gaussian",), "seeds": (0,), "methods": ("gd", "ptn-xlf")}
    few = along_pictures(rows_of(tmp_path / "few", *whole(**given, sizes=(750,), budgets=(0.1,))))  # type: ignore[arg-type]
    assert [one.missing for one in few] == [
        "the rows of one size of poison have fewer than two budgets",
        "the sweep has one size of Gaussian poison",
    ]
    many = along_pictures(rows_of(tmp_path / "many", *whole(**given, sizes=(750, 1250), budgets=(0.04, 0.1))))  # type: ignore[arg-type]
    budgets, sizes = (one.figure for one in many)
    assert budgets is not None and sizes is not None
    gus = {tuple(np.round(np.asarray(line.get_xdata(), dtype=float), 3)) for line in budgets.axes[0].lines}
    assert (4.0, 10.0) in gus and any(len(x) == 1 and x[0] == pytest.approx(1.026, abs=1e-3) for x in gus)
    assert {tuple(np.asarray(line.get_xdata(), dtype=float)) for line in sizes.axes[1].lines} >= {(1.5, 2.5)}
    assert not texts_outside(budgets) and not texts_outside(sizes)


# --- which paper a report is of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pawelczyk")
    attacks = ("badnet", "targeted", "indiscriminate", "gaussian")
    rows = whole(attacks, sizes=(750, 1250), budgets=(0.04, 0.1), methods=("gd", "ngd", "ptn-xlf"))
    return folder, report_sweep(write(folder, list(rows)), samples=0)


def test_a_report_has_all_of_pawelczyk_and_of_potion_what_has_rows(
    made: tuple[Path, dict[str, Any]],
) -> None:
    folder, content = made
    figures = ["pawelczyk-heatmap", *(f"pawelczyk-figure{name}" for name in ("02a", "03", "06", "07", "08", "09"))]
    assert content["figures"] == figures and content["not_drawn"] == {}
    assert content["tables"] == [
        "table9",
        "pawelczyk-matrix",
        "pawelczyk-gaussian",
        "pawelczyk-targeted",
        "pawelczyk-table2",
    ]
    page = Links()
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    page.feed(text)
    assert not page.open and "script" not in page.tags and "http" not in text
    for link in page.links:
        assert link.startswith("#") or (folder / "report" / link).is_file(), link
    assert text.index("Pawelczyk et al.: tables") < text.index("Potion: Tables") and 'id="ablations"' not in text
    assert not (folder / "report" / "tables" / "ablations.md").exists()
    listed = json.loads((folder / "report" / "report.json").read_text())["files"]
    there = {str(path.relative_to(folder / "report")) for path in (folder / "report").rglob("*") if path.is_file()}
    assert there == set(listed)


def test_tables_and_figures_of_pawelczyk_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, row(attack="badnet", method="ngd"))
    assert has_pawelczyk_rows(rows)
    report = pawelczyk_report(rows)
    missing = report.missing
    assert set(missing) == {
        *("pawelczyk-gaussian", "pawelczyk-targeted", "pawelczyk-table2"),
        *(f"pawelczyk-figure{name}" for name in ("02a", "03", "06", "07", "08", "09")),
    }
    assert missing["pawelczyk-table2"] == "the sweep has no row of an indiscriminate poison"
    page = "".join(part for section in report.sections for part in section.parts)
    assert all(why in page for why in missing.values()) and "Not made: " in page and "Not drawn: " in page


def test_a_sweep_of_potion_has_nothing_of_pawelczyk(tmp_path: Path) -> None:
    old = {"budget": None, "preset": "mine"}
    rows = rows_of(tmp_path, row(attack="badnet", method="ptn-xlf", **old), row(attack="sine", method="eu", **old))
    assert not has_pawelczyk_rows(rows) and pawelczyk_report(rows) == PaperReport()
    made = potion_report(rows, tmp_path / "models", 0)
    assert len(made.tables) == 11 and len(made.tables[-1].lines) == 4
    assert [one.name for one in made.pictures if one.figure is not None][:2] == ["figure04", "figure05"]


def test_a_preset_of_potion_among_rows_of_pawelczyk_keeps_its_models_figures(tmp_path: Path) -> None:
    given = [row(), row(attack="badnet", method="ptn-xlf", budget=None, rho=0.2, s_step=1.1, preset="potion/table1")]
    names = [one.name for one in potion_report(rows_of(tmp_path / "a", *given), tmp_path / "models", 0).pictures]
    assert names[:2] == ["figure04", "figure05"]
    given[1]["preset"] = "exam/matrix"
    assert potion_report(rows_of(tmp_path / "b", *given), tmp_path / "models", 0).pictures == []


def test_a_sweep_with_pawelczyk_rows_replaces_no_table_of_potion(tmp_path: Path) -> None:
    given: dict[str, Any] = {"attack": "badnet", "data": "digits", "model": "small_cnn", "method": "ptn-xlf"}
    alone = rows_of(tmp_path / "a", row(**given, budget=None, rho=0.2, s_step=1.1))
    assert [one.name for one in potion_report(alone, tmp_path, 0).tables][0] == "table1"
    both = rows_of(tmp_path / "b", row(**given, budget=None, rho=0.2, s_step=1.1), row(data="digits"))
    assert [one.name for one in potion_report(both, tmp_path, 0).tables] == ["badnet-digits"]


# --- warnings


def test_warnings_that_differ_in_one_number_are_one_line(tmp_path: Path) -> None:
    texts = [f"{share}% of S_f, more than rho = {rho}: x" for share in (22, 33) for rho in (0.1, 0.05, 0.25)]
    given = [row(warnings=[text], seed=seed) for seed, text in enumerate([*texts, "the model collapsed"])]
    found = warnings_of(rows_of(tmp_path, *given, row(warnings=texts[:1], seed=9)))
    assert [(text, count) for text, count, _ in found] == [
        ("22% of S_f, more than rho = 0.05, 0.1, 0.25: x", 4),
        ("33% of S_f, more than rho = 0.05, 0.1, 0.25: x", 3),
        ("the model collapsed", 1),
    ]
    assert len(found[0][2]) == 3


def test_warnings_of_other_words_or_numbers_are_kept_apart(tmp_path: Path) -> None:
    texts = ["1 of 2 is", "3 of 4 is", "1 of 2 was", "none", "1e-05 more", "0.5 more"]
    found = warnings_of(rows_of(tmp_path, *(row(warnings=[text], seed=seed) for seed, text in enumerate(texts))))
    assert {text for text, _, _ in found} == {"1 of 2 is", "3 of 4 is", "1 of 2 was", "none", "1e-05, 0.5 more"}
