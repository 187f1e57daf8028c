"""The studies of healing, on digits: their rows, their resumption and their tables."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from potion_fast.bench.runs import TrainConfig, train_run

STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"


@pytest.fixture(scope="module", autouse=True)
def studies() -> Iterator[None]:
    before = torch.get_num_threads()
    sys.path.append(str(STUDIES))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    sys.path.remove(str(STUDIES))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings: "poisoned", "clean" without its poison, and "swap", of most threes and fives."""
    folder = tmp_path_factory.mktemp("runs")
    trigger: dict[str, Any] = {"device": "cpu", "iterations": 200, "poisoned": 64, "found": 16}
    train_run(TrainConfig(**trigger), folder / "poisoned")
    train_run(TrainConfig(**trigger, leave_out_poisoned=True), folder / "clean")
    swap: dict[str, Any] = {"device": "cpu", "iterations": 60, "poisoned": 200, "found": 20}
    train_run(TrainConfig(**swap, poison="interclass-swap"), folder / "swap")
    return folder


def script(name: str, *arguments: object) -> str:
    """What the script prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        importlib.import_module(name.removesuffix(".py")).main()
    return printed.getvalue()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_healings_have_a_row_each_and_are_not_done_again(runs: Path, tmp_path: Path):
    out, pair = tmp_path / "new" / "healing.csv", f"{runs / 'poisoned'}={runs / 'clean'}"
    arguments = (out, pair, "--found", 8, "--methods", "none", "never poisoned", "ptn")
    script("healing.py", *arguments)
    none, never, ptn = rows(out)
    assert [row["method"] for row in (none, never, ptn)] == ["none", "never poisoned", "ptn"]
    assert [row["found"] for row in (none, never, ptn)] == ["0", "0", "8"]
    samples = int(ptn["samples"])
    assert int(ptn["backward"]) == samples and int(ptn["forward"]) >= samples + 8
    assert float(ptn["damage"]) == pytest.approx(100 * (float(ptn["clean"]) - float(none["clean"])), abs=1e-2)
    assert float(none["damage"]) == float(none["epochs"]) == 0
    before = out.read_bytes()
    assert script("healing.py", *arguments) == "" and out.read_bytes() == before
    assert "8 found (1), ptn" in script("healing.py", *arguments, "--draws", 0, 1)
    line = script("healing.py", "--markdown", out).splitlines()[4]
    assert line.startswith("| badnet | small_cnn | 8 of 64 | ptn | ") and line.endswith(" | 2 |") and " ± " in line
    of_rows = script("healing.py", "--seeds", out).splitlines()
    healed = 100 * float(ptn["attacked"]) / float(never["attacked"])
    assert len(of_rows) == 2 + 4 and of_rows[4].startswith(f"| poisoned | 8 | 0 | ptn | {healed:.1f} | ")


def test_a_swap_is_scored_on_its_own_samples_and_retraining_leaves_out_what_was_found(runs: Path, tmp_path: Path):
    out = tmp_path / "healing.csv"
    script("healing.py", out, runs / "swap", "--found", 200, "--methods", "none", "never poisoned", "retrain")
    none, retrained = rows(out)
    assert float(retrained["attacked"]) > 0.5 > float(retrained["attack_rate"])  # without any of S_m
    assert float(retrained["attack_rate"]) < float(none["attack_rate"])
    assert int(retrained["forward"]) == int(retrained["backward"]) == 60 * 64  # the batch size of digits


def test_draws_of_what_was_found_are_poisoned_samples_in_the_set_that_was_trained_on(runs: Path):
    subject = importlib.import_module("poisoned_runs").Subject.load(runs / "poisoned")
    draws = [subject.draw(16, number) for number in range(3)]
    assert len({tuple(draw) for draw in draws}) == 3
    for draw in draws:
        assert sorted(draw) == list(draw)
        assert set(subject.trained_on[draw]) < set(subject.scenario.poisoned)
        assert (subject.labels[1][draw] == 0).all()
    assert subject.trained_on[draws[0]].tolist() == subject.scenario.found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("OUT", "poisoned=swap"), "was trained with poison"),
        (("OUT", "nowhere"), "nowhere"),
    ],
)
def test_a_run_that_does_not_fit_is_named(runs: Path, tmp_path: Path, arguments: tuple[str, ...], words: str):
    out, run = tmp_path / "healing.csv", "=".join(str(runs / name) for name in arguments[1].split("="))
    with pytest.raises(SystemExit, match=words):
        script("healing.py", out, run, "--found", 8, "--methods", "never poisoned", "ptn")
    assert not out.exists()


def test_a_healed_model_is_trained_further_and_the_trigger_is_measured_again(runs: Path, tmp_path: Path):
    out, pair = tmp_path / "after.csv", f"{runs / 'poisoned'}={runs / 'clean'}"
    script("after_attacks.py", out, pair, "--found", 8, "--models", "none", "never poisoned", "--draws", 2)
    found = {(row["method"], row["after"], row["draw"]): float(row["attack_rate"]) for row in rows(out)}
    assert len(found) == 2 * (1 + 2 * 2)
    assert found["none", "nothing", "0"] > 0.5 > found["never poisoned", "nothing", "0"]
    assert found["never poisoned", "retuning", "1"] != found["never poisoned", "retuning", "2"]
    assert found["never poisoned", "retuning", "1"] > found["never poisoned", "fine-tuning", "1"]  # of five samples
    lines = script("after_attacks.py", "--markdown", out).splitlines()
    assert len(lines) == 2 + 2 and lines[2].startswith("| poisoned | 8 | none | ") and lines[2].count("±") == 6


def test_suspects_are_counted_against_the_rate_that_is_stated(runs: Path, tmp_path: Path):
    out = tmp_path / "suspects.csv"
    script("suspects.py", out, runs / "poisoned", "--found", 8, 1, "--draws", 2)
    found = rows(out)
    assert [(row["found"], row["wrong"], row["draw"]) for row in found] == [
        ("8", "0.0", "1"), ("8", "0.0", "2"), ("8", "0.5", "1"), ("8", "0.5", "2"), ("1", "0.0", "1"), ("1", "0.0", "2")
    ]  # fmt: skip
    for row in found:
        right, suspects = int(row["right"]), int(row["suspects"])
        assert 0 <= right <= suspects
        assert float(row["false_share"]) == pytest.approx(1 - right / suspects if suspects else 0, abs=1e-4)
        assert (row["wrong_fits"] == "") == (row["wrong"] == "0.0")
        rest = 64 - (4 if row["wrong"] == "0.5" else int(row["found"]))
        assert float(row["recall_all"]) == pytest.approx(right / rest, abs=1e-4)
    assert max(int(row["right"]) for row in found) > 30
    assert len(script("suspects.py", "--markdown", out).splitlines()) == 2 + 3


def test_what_a_swap_left_as_it_was_is_no_poison(runs: Path):
    subject = importlib.import_module("poisoned_runs").Subject.load(runs / "swap")
    poison, wrong = subject.poison
    assert poison.tolist() == wrong.tolist() == subject.positions(subject.scenario.poisoned).tolist()
    called = torch.from_numpy(poison[:50])
    columns = subject.suspect_columns(poison[:10], called)
    assert columns == {"suspects": 40, "right": 40, "recall": 40 / 190, "recall_all": 40 / 190}


def test_one_part_of_the_healing_is_changed_at_a_time(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, pair = tmp_path / "ablation.csv", f"{runs / 'poisoned'}={runs / 'clean'}"
    study = importlib.import_module("healing_ablation")
    monkeypatch.setitem(study.CHANGES, "labels", ("second-best", study.TRUE))
    monkeypatch.setitem(study.CHANGES, "share of an epoch", (0.03,))
    changes = ["as it is", "labels", "relabelled", "share of an epoch"]
    script("healing_ablation.py", out, pair, "--found", 16, "--changes", *changes)
    found = {(row["change"], row["value"]): row for row in rows(out)}
    assert len(script("healing_ablation.py", "--markdown", out).splitlines()) == 2 + len(found) == 2 + 1 + 2 + 2 + 1
    usual = found["as it is", ""]
    assert float(usual["attack_rate"]) < 0.5 and usual["attacked"] != found["share of an epoch", "0.03"]["attacked"]
    assert float(found["labels", "true"]["labels_right"]) == 1 > float(found["labels", "second-best"]["labels_right"])
    assert found["relabelled", "S_f"]["suspects"] == "16" and found["relabelled", "S_m"]["suspects"] == "64"
    falling = int(usual["steps"]) - int(found["share of an epoch", "0.03"]["steps"])
    assert falling == 32 - 3  # steps in which the rate falls: twice the share, with the smallest batches


def test_estimates_of_the_attack_success_stand_beside_the_true_one(runs: Path, tmp_path: Path):
    out = tmp_path / "healing.csv"
    script("healing.py", out, runs / "poisoned", "--found", 16, "--methods", "none", "heal")
    none, healed = rows(out)
    assert healed["way"] in ("pattern", "transplant") and none["way"] == none["before"] == ""
    for name in ("before", "after"):
        low, share, high = (float(healed[f"{name}{end}"]) for end in ("_low", "", "_high"))
        assert low <= share <= high
    lines = script("healing.py", "--attack-success", out).splitlines()
    truth = f"{100 * float(none['attack_rate']):.1f}", f"{100 * float(healed['attack_rate']):.1f}"
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1:4] == ["poisoned", "16", healed["way"]] and (cells[5], cells[7]) == truth
    assert "of 1 intervals hold the true attack success" in lines[4] and lines[-1].startswith("After: ")


def test_a_search_without_found_samples_names_the_poisoned_label_alone(runs: Path, tmp_path: Path):
    out = tmp_path / "unknown.csv"
    arguments = (out, runs / "poisoned", runs / "clean", "--draws", 0, 1)
    script("unknown_poison.py", *arguments)
    found = {(row["run"], row["draw"]): row for row in rows(out)}
    assert len(found) == 4
    for draw in "01":
        poisoned, clean = found["poisoned", draw], found["clean", draw]
        assert (poisoned["attack"], clean["attack"]) == ("badnet", "none")
        assert (clean["named"], clean["suspects"], clean["p_poison"], clean["recall"]) == ("0", "0", "", "")
        assert poisoned["poison_labels"] == "1" and poisoned["false_named"] == "0"
        assert int(poisoned["right"]) <= int(poisoned["suspects"])
    whole, half = found["poisoned", "0"], found["poisoned", "1"]
    assert whole["named"] == "1" and float(whole["p_poison"]) < 0.005 and float(whole["recall"]) > 0.9
    assert int(half["samples"]) == int(whole["samples"]) // 2 and 16 < int(half["poisoned"]) < 48
    assert script("unknown_poison.py", *arguments) == ""
    lines = script("unknown_poison.py", "--markdown", out).splitlines()
    assert len(lines) == 2 + 4 and lines[2].startswith("| small_cnn | badnet | 64 poisoned | 1 | 1 | 0 | ")


def test_a_search_of_simulated_classes(tmp_path: Path):
    out = tmp_path / "simulated.csv"
    script("unknown_poison.py", out, "--classes", 40, "--poisoned", 0, 60, "--steps", 500)
    clean, poisoned = rows(out)
    assert (clean["attack"], poisoned["attack"]) == ("none", "shift")
    assert (clean["labels"], clean["named"], clean["poisoned"]) == ("40", "0", "0")
    assert (poisoned["named"], poisoned["false_named"]) == ("1", "0") and float(poisoned["recall"]) > 0.9


def test_rows_with_other_columns_are_refused_in_one_line(runs: Path, tmp_path: Path):
    (tmp_path / "old.csv").write_text("run,found,seconds\nmine,3,1.5\n")
    with pytest.raises(SystemExit, match="old.csv is of another study, or another version of this one: after, "):
        script("healing.py", tmp_path / "old.csv", runs / "poisoned", "--methods", "none")
