"""Numbers of the tables from rows that are known, what bad files get, and that every figure is made."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import struct
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.axis import Tick
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.sweep_rows import file_text, many, row, write
from potion_fast.bench.report import report_sweep
from potion_fast.bench.report.averages import average
from potion_fast.bench.report.methods import ATTACK_LABELS, UNKNOWN, attack_label, look, variant_label, variants
from potion_fast.bench.report.picture import Picture
from potion_fast.bench.report.potion import by_forget_size as found
from potion_fast.bench.report.potion import curves, sensitivity, times
from potion_fast.bench.report.potion.ablations import ablations, recomputed
from potion_fast.bench.report.potion.curves import objectives, points
from potion_fast.bench.report.potion.make import in_order
from potion_fast.bench.report.potion.measured_models import trained_runs
from potion_fast.bench.report.potion.norm_toy import EXPONENTS, scaled, tails, toy
from potion_fast.bench.report.potion.paper_values import of_paper, printed
from potion_fast.bench.report.potion.printed_tables import printed_table
from potion_fast.bench.report.potion.tables import PaperLine, PaperTable, tables
from potion_fast.bench.report.table import to_csv, to_markdown
from potion_fast.bench.runs import TrainConfig, train_run
from potion_fast.bench.sweep.rows import Row, read_rows
from potion_fast.cli import main as cli
from potion_fast.errors import FileError, PotionError

DRAWN = [*(f"figure{number:02}" for number in range(3, 20)), "equations5-6", "steps"]


def rows_of(tmp_path: Path, *given: dict[str, Any]) -> list[Row]:
    return read_rows(write(tmp_path, given) / "results")


def line(table: PaperTable, method: str, section: str = "") -> PaperLine:
    (found,) = (one for one in table.lines if one.method == method and section in one.section)
    return found


def table(made: list[PaperTable], name: str) -> PaperTable:
    return next(one for one in made if one.name == name)


# --- numbers


def test_spread_over_scenarios_and_over_seeds_are_kept_apart(tmp_path: Path) -> None:
    healed = {(10, 0): 90.0, (10, 1): 94.0, (50, 0): 80.0, (50, 1): 86.0, (100, 0): 70.0, (100, 1): 78.0}
    rows = rows_of(tmp_path, *(row(found=f, seed=s, poison_healed=v) for (f, s), v in healed.items()))
    one = average(rows, "poison_healed")
    assert one is not None
    assert one.mean == pytest.approx(83.0)
    assert one.over_scenarios == pytest.approx(stdev([92.0, 83.0, 74.0]))
    assert one.over_seeds == pytest.approx(stdev([80.0, 86.0]))
    assert (one.scenarios, one.seeds, one.count) == (3, 2, 6)


def test_seeds_are_compared_on_the_scenarios_that_all_have(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        *(row(found=10, seed=seed, poison_healed=90.0 + seed) for seed in (0, 1)),
        row(found=100, seed=0, poison_healed=10.0),
    )
    one = average(rows, "poison_healed")
    assert one is not None
    assert one.over_seeds == pytest.approx(stdev([90.0, 91.0]))
    assert one.mean == pytest.approx(fmean([90.5, 10.0]))


def test_one_scenario_or_seed_has_no_spread_and_no_rows_no_average(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, row(poison_healed=90.0), row(method="eu", poison_healed=None))
    one = average(rows, "poison_healed")
    assert one is not None and (one.over_scenarios, one.over_seeds, one.count) == (None, None, 1)
    assert average(rows[:0], "poison_healed") is None


def test_table_1_holds_the_mean_the_papers_value_and_raw_accuracies(tmp_path: Path) -> None:
    given = [row(found=f, poison_healed=h, model_damage=-d) for f, h, d in ((10, 90, 1), (50, 94, 2), (1, 60, 3))]
    made = table(tables(rows_of(tmp_path, *given)), "table1")
    one = line(made, "PTN-XLF", "of S_m")
    text = to_markdown(printed_table(made))
    assert (
        "| 10 to 50 % of S_m found | PTN-XLF | 92.00 ± 2.83 (–) | 93.72 ± 1.99 | −1.50 ± 0.71 (–) | −1.41 ± 0.92 |"
        in text
    )
    assert "| one-shot: 1 found | PTN-XLF | 60.00 | 68.01 ± 14.61 | −3.00 | −1.34 ± 1.50 | 80.00 |" in text
    triggered, clean = one.averages["attacked_accuracy"], one.averages["clean_accuracy"]
    assert triggered is not None and triggered.mean == pytest.approx(80) and clean is not None
    assert clean.mean == pytest.approx(90)
    assert "trained without any of S_m had: 90.00 %" in text
    assert "average CIFAR-100 in" in text
    assert "`potion-fast sweep mine --out DIR --only u10` and 1 more" in text


def test_a_cell_without_rows_says_so_next_to_the_papers_value(tmp_path: Path) -> None:
    made = table(tables(rows_of(tmp_path, row(rho=0.5), row(method="eu", rho=None, s_step=None))), "table1")
    assert line(made, "PTN-XLF", "of S_m").missing == "no rows at ρ = 0.2, step 1.1"
    missing = line(made, "PTN-LF", "of S_m")
    assert missing.missing == "no rows"
    assert f"| {missing.section} | PTN-LF | no rows | 92.49 ± 3.58 |" in to_markdown(printed_table(made))
    for name in ("table2", "table7"):
        assert all("the sweep has no row of" in one.missing for one in table(tables(rows_of(tmp_path)), name).lines)


def test_measures_that_no_row_has_are_not_taken_for_zero(tmp_path: Path) -> None:
    made = table(tables(rows_of(tmp_path, row(poison_healed=None, reference_attacked_accuracy=None))), "table1")
    assert "| PTN-XLF | not measured | 93.72" in to_markdown(printed_table(made))
    assert "There is no reference model" in to_markdown(printed_table(made))


def test_a_table_marks_where_the_attack_had_not_been_learnt(tmp_path: Path) -> None:
    given = [row(found=found, before_attack_score=rate) for found, rate in ((10, 0.5), (20, 0.99), (30, 0.98))]
    made = table(tables(rows_of(tmp_path, *given)), "table1")
    assert any(note.startswith("In 1 of 3 rows the attack succeeded on fewer than 80%") for note in made.notes)
    assert not any("fewer than" in note for note in table(tables(rows_of(tmp_path / "b", *given[1:])), "table1").notes)


def test_several_settings_are_averaged_together_and_apart(tmp_path: Path) -> None:
    given = [row(poison_healed=90.0), row(data="cifar100", model="wrn28_10", width=10, poison_healed=80.0)]
    made = table(tables(rows_of(tmp_path, *given)), "table1")
    healed = [one.averages["poison_healed"] for one in made.lines if one.method == "PTN-XLF" and one.rows]
    assert [one.mean for one in healed if one] == pytest.approx([85.0, 90.0, 80.0])


def test_table_8_has_a_line_per_step_and_methods_without_steps_one(tmp_path: Path) -> None:
    given = [row(s_step=step, poison_healed=90 + step) for step in (1.01, 1.1, 2.0)]
    given.append(row(method="eu", rho=None, s_step=None, group_size=None))
    made = table(tables(rows_of(tmp_path, *given)), "table8")
    xlf = [one for one in made.lines if one.method == "PTN-XLF" and one.rows]
    assert [one.s_step for one in xlf] == [1.01, 1.1, 2.0]
    papers = [one.printed["poison_healed"] for one in xlf]
    assert [paper.mean for paper in papers if paper] == [92.73, 93.72, 95.64]
    assert len([one for one in made.lines if one.method == "EU" and "of S_m" in one.section and one.rows]) == 1


def test_table_9_is_of_scenarios_with_all_of_s_m_found(tmp_path: Path) -> None:
    made = table(
        tables(rows_of(tmp_path, row(found=10, poison_healed=1.0), row(found=100, poison_healed=95.0))), "table9"
    )
    healed = line(made, "PTN-XLF").averages["poison_healed"]
    assert healed is not None and healed.mean == 95.0 and healed.count == 1


def test_group_sizes_and_settings_are_lines_of_their_own(tmp_path: Path) -> None:
    given = [row(), row(group_size=1), row(group_size="batch"), row(settings={"b_start": 25.0}, preset="other")]
    given[3]["group_size"] = 10
    known = variants(read_rows(write(write(tmp_path, given[:3]), given[3:], "b") / "results"))
    names = {variant_label(key) for key in known}
    assert names == {"PTN-XLF", "PTN-XLF (m = 1)", "PTN-XLF (m = batch)", "PTN-XLF (b_start = 25.0)"}


def test_the_default_group_size_is_one_variant_whatever_was_found(tmp_path: Path) -> None:
    assert len(variants(rows_of(tmp_path, *(row(found=found) for found in (1, 10, 64, 100))))) == 1


def test_unknown_methods_and_attacks_still_appear(tmp_path: Path) -> None:
    given = [row(method="magic_&_more", rho=None, s_step=None), row(attack="../odd/attack")]
    made = tables(rows_of(tmp_path, *given[:1])) + tables(read_rows(write(tmp_path / "b", given[1:]) / "results"))
    assert line(made[0], "magic_&_more", "of S_m").rows
    assert [one.name for one in made if one.name.endswith("cifar10")] == ["-odd-attack-cifar10"]


def test_an_unlearner_of_ones_own_has_a_label_and_a_look_without_a_line_in_the_report(tmp_path: Path) -> None:
    folder = write(tmp_path, [row(), row(method="mine", rho=None, s_step=None), row(method="none", rho=None)])
    content = report_sweep(folder, samples=0)
    assert "figure10-others" in content["figures"]
    assert "| mine | 88.90 |" in (folder / "report" / "tables" / "table1.md").read_text(encoding="utf-8")
    assert look("mine").label == "mine" and look("mine").color in UNKNOWN


def test_an_attack_of_ones_own_has_a_label_without_a_line_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ATTACK_LABELS, "sine-wave")
    assert [attack_label(name) for name in ("sine-wave", "my-key", "badnet")] == ["sine wave", "my-key", "BadNet"]


def test_an_attack_is_the_registered_one_and_printed_as_the_sweep_calls_it_unless_that_is_short_for_it(
    tmp_path: Path,
) -> None:
    given = [row(attack="sine"), row(attack="badnet", attack_key="patch"), row(attack="badnet")]
    rows = rows_of(tmp_path, *given)
    assert sorted((one.attack, one.attack_name) for one in rows) == [
        ("badnet", "badnet"),
        ("badnet", "patch"),
        ("sine-wave", "sine-wave"),
    ]
    assert len({one.scenario for one in rows}) == 3
    (made,) = (one for one in tables(rows) if one.name == "table1")
    assert len(line(made, "PTN-XLF", "of S_m").rows) == 2  # both are BadNet, whatever they are called


EARLIER = {
    "attack": "mine",
    "data": "digits",
    "model": "small_cnn",
    "method": "eu",
    "seed": 0,
    "poisoned": 10,
    "found": 5,
    "share": 0.5,
    "one_shot": False,
    "clean_accuracy": 0.9,
    "triggered_accuracy": 0.8,
    "attack_success_rate": 0.1,
    "before_clean_accuracy": 0.95,
    "before_triggered_accuracy": 0.2,
    "before_attack_success_rate": 0.9,
    "seconds": {"training": 1.0, "edit": None},
}


def write_earlier(folder: Path, attacks: dict[str, Any] | None, *rows: dict[str, Any]) -> Path:
    """The results of a sweep of an earlier version, and its configuration unless that is lost."""
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "unit.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    if attacks is not None:
        config = {"train": {"poison": "badnet"}, "data": {"digits": {}}, "attacks": attacks}
        (folder / "sweep.yaml").write_text(yaml.safe_dump({"config": config}), encoding="utf-8")
    return folder / "results"


def test_rows_of_an_earlier_version_take_their_attack_from_the_sweeps_configuration(tmp_path: Path) -> None:
    kinds = {"mine": {"poison": "random-swap"}, "sine": {}, "noise": {"poison": "gaussian"}}
    noise = {**EARLIER, "attack": "noise", "attack_success_rate": 7.5, "scores": {"clean_accuracy": 0.9, "gus": 7.5}}
    rows = read_rows(write_earlier(tmp_path, kinds, EARLIER, {**EARLIER, "attack": "sine"}, noise))
    assert [(one.attack, one.attack_key, one.kind) for one in rows] == [
        ("random-swap", "mine", "swap"),
        ("badnet", "sine", "trigger"),
        ("gaussian", "noise", "gaussian"),
    ]
    swap, trigger, gaussian = rows
    assert swap.scores == {"clean_accuracy": 0.9, "manipulated_accuracy": 0.8, "memorised_rate": 0.1}
    assert trigger.before_scores == {
        "clean_accuracy": 0.95,
        "triggered_accuracy": 0.2,
        "attack_success_rate": 0.9,
    }
    assert gaussian.scores == {"clean_accuracy": 0.9, "base_accuracy": 0.8, "gus": 7.5}
    assert gaussian.score("attack_success_rate") is None
    assert swap.seconds == {"training": 1.0}


def test_rows_of_an_earlier_version_whose_attack_nothing_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"row 1 is of an earlier version .* put the sweep.yaml of its sweep next to"):
        read_rows(write_earlier(tmp_path / "a", None, EARLIER))
    (one,) = read_rows(write_earlier(tmp_path / "b", None, {**EARLIER, "attack": "badnet"}))
    assert one.attack == "badnet"


def test_rows_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "unit.json").write_text(json.dumps({"format": 3, "rows": [row()]}), encoding="utf-8")
    with pytest.raises(FileError, match="use a newer version"):
        read_rows(tmp_path)


def test_a_trial_sweep_replaces_the_papers_data_and_says_so(tmp_path: Path) -> None:
    made = tables(rows_of(tmp_path, row(data="digits"), row(data="digits", attack="moving-trigger")))
    first = table(made, "table1")
    assert line(first, "PTN-XLF", "of S_m").rows
    assert "here: digits" in first.title and "of which the paper has no values" in first.notes[0]
    assert not any(value for each in first.lines for value in each.printed.values())
    shown = [one.name for one in made if any(each.rows for each in one.lines)]
    assert shown == ["table1", "table4", "table8"]  # 2 and 5, and 7, would have the same rows; 9 is of all found


def test_tidy_tables_keep_every_digit_and_the_commands(tmp_path: Path) -> None:
    made = table(
        tables(rows_of(tmp_path, row(poison_healed=90.123456789), row(found=20, poison_healed=91.0))), "table1"
    )
    lines = list(csv.DictReader(to_csv(printed_table(made)).splitlines(keepends=True)))
    (one,) = (
        each for each in lines if (each["method"], each["measure"], each["rows"]) == ("PTN-XLF", "poison_healed", "2")
    )
    assert float(one["mean"]) == fmean([90.123456789, 91.0]) and one["paper"] == "93.72"
    assert one["commands"].count("potion-fast sweep") == 2


# --- the paper's numbers


def test_printed_numbers_are_the_papers() -> None:
    wanted = {
        ("table 1", "found", "ptn-xlf", "poison_healed"): (93.72, 1.99),
        ("table 1", "one-shot", "ptn-lf", "model_damage"): (-5.94, 7.80),
        ("table 6", "found", "ptn-ssd", "model_damage"): (-6.20, 5.97),
        ("table 9", "all found", "eu", "poison_healed"): (99.99, 0.03),
        ("section 5.3", "cifar10", "eu", "seconds"): (141.10, 1.38),
    }
    for key, numbers in wanted.items():
        found = of_paper(*key)
        assert found is not None and (found.mean, found.spread) == numbers
    assert len({(p.where, p.part, p.method, p.measure, p.s_step) for p in printed()}) == len(printed())


def test_the_papers_ablations_follow_from_its_table_1_but_for_one() -> None:
    assert recomputed("ptn-ssd", "ssd-goel") == pytest.approx((4.93, 66.20), abs=0.005)  # it prints 46.13
    assert recomputed("ptn-lf", "ssd-goel")[1] == pytest.approx(46.13, abs=0.005)
    assert recomputed("ptn-xlf", "ptn-lf") == pytest.approx((1.33, 53.82), abs=0.005)
    assert recomputed("ptn-xlf", "ssd-goel") == pytest.approx((12.36, 24.82), abs=0.005)


def test_ablations_compare_the_scenarios_that_both_methods_have(tmp_path: Path) -> None:
    given = [row(found=f, poison_healed=h, model_damage=-1.0) for f, h in ((10, 90.0), (50, 10.0))]
    given.append(row(found=10, method="ptn-lf", poison_healed=60.0, model_damage=-4.0))
    (one,) = (each for each in ablations(rows_of(tmp_path, *given)) if (each.ours, each.other) == ("ptn-xlf", "ptn-lf"))
    assert (one.healed_gain, one.damage_share, one.pairs) == (pytest.approx(50.0), pytest.approx(25.0), 1)
    none = ablations(rows_of(tmp_path, *given))[0]
    assert (none.healed_gain, none.pairs) == (None, 0)


# --- the toy and the objectives


@pytest.mark.parametrize("w", EXPONENTS)
def test_the_toys_importances_are_the_analytic_derivative(w: float) -> None:
    made = toy(w, samples=400, classes=7, seed=3)
    outputs = _uniform(400, 7, 3)
    length = np.linalg.norm(outputs, axis=1, keepdims=True)
    np.testing.assert_allclose(made.values, length[:, 0] ** w, rtol=1e-12)
    slopes = (w * length ** (w - 2) * outputs).reshape(400, 7)
    np.testing.assert_allclose(made.importances, slopes.flatten(), rtol=1e-12)


def _uniform(samples: int, classes: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, classes, generator=generator, dtype=torch.float64).numpy()


def test_one_outputs_square_has_a_uniform_importance_and_its_norm_a_constant_one() -> None:
    square, norm = toy(2.0, classes=1), toy(1.0, classes=1)
    assert tails(square.importances) == pytest.approx((0.1, 0.1), abs=0.01)
    assert np.all(norm.importances == 1) and np.all(scaled(norm.importances) == 0)


def test_objectives_of_equations_5_and_6(tmp_path: Path) -> None:
    trace = [[1, 1e-5, 99.9, 9.0, 0.8, 5, 0.9, 0.3], [2, 2e-5, 99.8, 8.0, 0.3, 50, None, None]]
    trace.append([3, 3e-5, 99.7, 7.0, 0.1, 500, 0.7, 0.8])
    (one,) = rows_of(tmp_path, row(found=100, before_found_accuracy=1.0, before_clean_accuracy=0.92, trace=trace))
    made = objectives(one)
    assert made is not None
    assert [point.dampened for point in made.points] == [0, 5, 500]  # the second has no clean accuracy
    assert made.five == pytest.approx([0, 50 * (0.2 - 0.02), 50 * (0.9 - 0.22)])
    assert made.six == pytest.approx([80, 60, 10])
    assert [point.dampened for point in made.best] == [500, 500]


def test_acc_0_comes_from_the_method_that_leaves_the_model_alone(tmp_path: Path) -> None:
    trace = [[1, 1e-5, 99.9, 9.0, 0.8, 5, 0.9, 0.3]]
    rows = rows_of(tmp_path, row(trace=trace), row(method="none", rho=None, s_step=None, found_accuracy=0.97))
    (searched,) = (one for one in rows if one.method == "ptn-xlf")
    assert searched.before_found_accuracy == 0.97
    assert [(point.dampened, point.found) for point in points(searched)] == [(0, 0.97), (5, 0.8)]
    (alone,) = rows_of(tmp_path / "b", row(trace=trace))
    assert objectives(alone) is None


# --- bad input


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"rows": [{"attack"', "truncated"),
        ("[1, 2]", "no list of rows"),
        ('{"rows": [3]}', "no list of rows"),
        ('{"some": "thing"}', "no list of rows"),
        (json.dumps({"rows": [{"attack": "badnet"}]}), "row 1 has no data, model, method"),
        (file_text([row(seed="one")]), "seed 'one', which is of the wrong type"),
        (file_text([row(), row(poison_healed=True)]), "row 2 has poison_healed True"),
        (file_text([row(clean_accuracy=90.0)]), "clean_accuracy 90.0, which is out of range"),
        (file_text([row(found=200)]), "found 200, which is out of range"),
        (file_text([row(trace=[[1, 2]])]), "8 values"),
    ],
)
def test_a_broken_or_foreign_file_is_named_and_nothing_written(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path, [row()])
    (tmp_path / "results" / "bad.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=re.escape(says)) as error:
        report_sweep(tmp_path, samples=0)
    assert "bad.json" in str(error.value)
    assert not (tmp_path / "report").exists()


def test_files_that_are_being_written_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, [row()])
    (tmp_path / "results" / ".unit.json.1234.part").write_text("{", encoding="utf-8")
    (tmp_path / "results" / ".half.json").write_text("{", encoding="utf-8")
    assert len(read_rows(tmp_path / "results")) == 1


def test_no_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="results is not there"):
        report_sweep(tmp_path)
    (tmp_path / "results").mkdir()
    with pytest.raises(FileError, match="holds no results yet"):
        report_sweep(tmp_path)


def test_a_negative_number_of_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PotionError, match="samples"):
        report_sweep(write(tmp_path, [row()]), samples=-1)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "sweep", [row()])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileError, match="not the folder of a report"):
        report_sweep(tmp_path / "sweep", tmp_path / "mine", samples=0)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_manifest_that_names_other_files_is_no_reports(tmp_path: Path) -> None:
    write(tmp_path / "sweep", [row()])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(json.dumps({"files": ["../sweep/results/x.json"]}), encoding="utf-8")
    with pytest.raises(FileError, match="not the folder of a report"):
        report_sweep(tmp_path / "sweep", tmp_path / "out", samples=0)


# --- the whole


class Links(html.parser.HTMLParser):
    """What a page refers to, and its tags that are not closed."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("href", "src") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows as of a trial sweep, and the models of two of its attacks."""
    rows = many(
        attacks=("badnet", "random-swap"), shares=(0, 0.1, 1.0), methods=("none", "ptn-xlf", "ptn-lf", "assd", "eu")
    )
    path = write(tmp_path_factory.mktemp("report") / "sweep", list(rows))
    tiny: dict[str, Any] = {"train_size": 300, "width": 4, "iterations": 20, "poisoned": 64, "device": "cpu"}
    train_run(TrainConfig(**tiny, patch_size=3), path / "models" / "digits_badnet")
    train_run(TrainConfig(**tiny, patch_size=3, leave_out_poisoned=True), path / "models" / "digits_badnet_clean")
    train_run(TrainConfig(**tiny, poison="random-swap"), path / "models" / "digits_swap")
    return path


@pytest.fixture(scope="module")
def made(sweep: Path) -> dict[str, Any]:
    return report_sweep(sweep, samples=40)


def test_every_table_and_figure_is_made_from_a_trial_sweep(sweep: Path, made: dict[str, Any]) -> None:
    assert made["not_drawn"] == {}
    assert set(made["figures"]) >= {*DRAWN, "figure10-others", "found-random-swap-digits"}
    for name in made["figures"]:
        png = (sweep / "report" / "figures" / f"{name}.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", png[16:20])[0] == 1800
        assert (sweep / "report" / "figures" / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    assert made["tables"] == [
        *(f"table{number}" for number in (1, 3, 4, 6, 7, 8, 9)),
        "random-swap-digits",
        "ablations",
    ]
    for name in made["tables"]:
        assert all((sweep / "report" / "tables" / f"{name}.{end}").stat().st_size for end in ("md", "csv"))


def test_the_page_is_whole_and_needs_no_network(sweep: Path, made: dict[str, Any]) -> None:
    text = (sweep / "report" / "index.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert not page.open and "script" not in page.tags and "http" not in text
    for link in page.links:
        assert link.startswith("#") or (sweep / "report" / link).is_file(), link
    assert {f"figures/{name}.png" for name in made["figures"]} <= set(page.links)
    assert "the search ended saturated before its threshold" in text
    assert "potion-fast sweep mine --out DIR --only u6" in text
    assert 'name="viewport"' in text


def test_results_are_one_tidy_line_per_row(sweep: Path, made: dict[str, Any]) -> None:
    with (sweep / "report" / "results.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == made["rows"] == len(list(read_rows(sweep / "results")))
    first = next(each for each in lines if each["method"] == "ptn-xlf" and each["rho"] == "0.2")
    assert "trace" not in first and float(first["seconds_retain"]) == 4.1 and first["settings"] == "{}"


def test_a_second_report_is_the_same_and_removes_what_it_does_not_make(
    sweep: Path, made: dict[str, Any], tmp_path: Path
) -> None:
    """Without models fewer figures are drawn: the others must not stay behind from the first."""
    few = write(tmp_path / "few", [row(), row(method="none", rho=None, s_step=None)])
    out = tmp_path / "out"
    shutil.copytree(sweep / "report", out)
    content = report_sweep(few, out, samples=0)
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert drawn == set(content["figures"]) and "figure03" not in drawn
    kept = (out / "results.csv").read_bytes(), (out / "figures" / "figure04.svg").read_bytes()
    report_sweep(few, out, samples=0)
    assert kept == ((out / "results.csv").read_bytes(), (out / "figures" / "figure04.svg").read_bytes())
    listed = json.loads((out / "report.json").read_text())["files"]
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(listed)


def test_a_figure_without_data_is_not_drawn_and_the_page_says_why(tmp_path: Path) -> None:
    content = report_sweep(write(tmp_path, [row(seconds={})]), samples=0)
    assert content["figures"] == ["figure04", "figure05", "figure10"]
    assert content["not_drawn"]["figure13"] == "the sweep has no row of BadNet on CIFAR-100"
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for why in content["not_drawn"].values():
        assert f"Not drawn: {why}" in text.replace("&#x27;", "'")


def test_a_broken_model_is_reported_and_the_rest_is_made(sweep: Path, tmp_path: Path) -> None:
    folder = write(tmp_path, [row()])
    shutil.copytree(sweep / "models", folder / "models")
    (folder / "models" / "digits_badnet" / "model.safetensors").write_bytes(b"broken")
    content = report_sweep(folder, samples=10)
    assert "digits_badnet cannot be measured" in content["not_drawn"]["figure03"]
    assert "figure12" in content["figures"]


def test_the_model_of_a_perturbation_is_not_measured(sweep: Path, tmp_path: Path) -> None:
    for name in ("badnet", "gaussian"):
        shutil.copytree(sweep / "models" / "digits_badnet", tmp_path / name)
    path = tmp_path / "gaussian" / "config.yaml"
    path.write_text(path.read_text().replace("poison: badnet", "poison: gaussian"))
    assert trained_runs(tmp_path) == {"badnet": tmp_path / "badnet"}


def test_pictures_come_in_the_papers_order() -> None:
    names = ["steps", "figure10-others", "figure03", "figure19", "figure10", "found-sine"]
    order = ["figure03", "figure10-others", "figure10", "figure19", "steps", "found-sine"]
    assert [each.name for each in in_order([Picture(name, "") for name in names])] == order


def test_no_text_runs_out_of_a_figure(sweep: Path) -> None:
    rows = read_rows(sweep / "results")
    pictures = [curves.search_picture(rows), curves.objectives_picture(rows), sensitivity.step_picture(rows)]
    pictures += [found.found_pictures(rows)[0], sensitivity.rho_pictures(rows)[0], times.time_pictures(rows)[0]]
    for picture in pictures:
        assert picture.figure is not None
        assert not texts_outside(picture.figure), picture.name


def texts_outside(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    outside = []
    ticks = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for text in set(figure.findobj(Text)) - ticks:  # ticks past an axis' end exist and are not drawn
        if not text.get_visible() or not text.get_text():
            continue
        box, edge = text.get_window_extent(), figure.bbox
        if box.x0 < -1 or box.y0 < -1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1:
            outside.append(text.get_text())
    return outside


def test_the_command_makes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "sweep", [row(seconds={})])
    arguments = ["report", str(tmp_path / "sweep"), "--out", str(tmp_path / "out"), "--samples", "0"]
    assert cli.main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["rows"] == 1 and Path(content["page"]).is_file()
    assert cli.main(arguments) == 0
    assert "not drawn: figure03: it needs a model" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "nothing")]) == 1
    assert "results is not there" in capsys.readouterr().err
