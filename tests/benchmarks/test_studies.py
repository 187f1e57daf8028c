"""The benchmarks of the whole method, at toy size, and the tables of the README made from their results."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
STUDIES = BENCHMARKS / "studies"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The scripts are imported and not started, which would take seconds for each; some of them set the threads."""
    before = torch.get_num_threads()
    sys.path += [str(BENCHMARKS), str(STUDIES)]  # of tables.py, and of all others
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    sys.path.remove(str(BENCHMARKS))
    sys.path.remove(str(STUDIES))


def script(name: str, *arguments: object) -> str:
    """What the script prints. Raises SystemExit where it fails."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        importlib.import_module(name.removesuffix(".py")).main()
    return printed.getvalue()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "end_to_end.csv"
    script("end_to_end.py", path, "--dry-run")
    return path


def rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["part"], row["form"]): row for row in csv.DictReader(file)}


def value(path: Path, part: str, form: str) -> float:
    return float(rows(path)[part, form]["value"])


def test_every_part_is_measured_in_every_form(result: Path):
    passes = ("plain", "plain_amp", "public_code", "exact", "exact_amp", "groups", "groups_amp")
    assert all(value(result, "pass", form) > 0 for form in passes)
    assert all(value(result, "search", form) > 0 for form in ("public_code", "sequential", "bisect"))
    assert all(value(result, "memory of the pass", form) > 0 for form in passes)
    assert value(result, "JPEGs read", "groups_amp") > 0
    assert rows(result)["pass over JPEGs is bound by", "groups_amp"]["value"] in ("decode", "compute")
    assert rows(result)["search", "public_code"]["measured"] == "2 of 8 candidates evaluated"


@pytest.mark.parametrize(
    ("form", "of_pass", "of_search"),
    [
        ("public_code", "public_code", "public_code"),
        ("exact", "exact", "sequential"),
        ("exact_amp", "exact_amp", "sequential"),
        ("fastest", "groups_amp", "bisect"),
    ],
)
def test_totals_follow_from_the_rates_and_say_that_they_are_extrapolated(result, form, of_pass, of_search):
    total = 1_281_167 / value(result, "pass", of_pass) + value(result, "search", of_search)
    assert value(result, "total", form) == pytest.approx(total, rel=1e-3)
    assert rows(result)["total", form]["measured"] == "extrapolated to 1,281,167 images"
    shares = [value(result, f"share of {part}", form) for part in ("retain", "forget", "search")]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    if form != "public_code":
        times = value(result, "total", "public_code") / total
        assert value(result, "times faster than the public code's form", form) == pytest.approx(times, rel=2e-3)


def test_the_table_has_every_part(result: Path):
    table = script("end_to_end.py", "--markdown", result)
    assert table.count("\n| ") == 1 + len(rows(result))
    assert f"| pass | exact | {value(result, 'pass', 'exact')} images/s |" in table


def test_a_profile_accounts_for_all_of_a_step(tmp_path: Path):
    path = tmp_path / "profile.csv"
    script("step_profile.py", path, "--network", "toy", "--form", "exact", "--batches", 2)
    with path.open(newline="", encoding="utf-8") as file:
        found = {row["what"]: row for row in csv.DictReader(file)}
    assert float(found["importances of layers"]["ms"]) > 0
    assert float(found["all"]["ms"]) >= 0.98 * sum(float(r["ms"]) for name, r in found.items() if name != "all")
    assert path.with_suffix(".json").stat().st_size > 1000
    assert "| importances of layers |" in script("step_profile.py", "--markdown", path)


def test_the_tables_of_the_readmes_are_those_of_the_committed_results():
    script("tables.py", "--check")


def test_a_table_that_was_edited_by_hand_is_found_and_one_without_results_says_so(tmp_path: Path):
    page = tmp_path / "page.md"
    command = "passes.py --markdown results/passes/cpu-resnet9.csv"
    page.write_text(
        f"<!-- table: {command} -->\n\n| 1.00 |\n\n<!-- end of table -->\n"
        "<!-- table: end_to_end.py --markdown results/none.csv -->\n<!-- end of table -->\n",
        encoding="utf-8",
    )
    with pytest.raises(SystemExit, match="not up to date"):
        script("tables.py", "--check", page)
    script("tables.py", page)
    script("tables.py", "--check", page)
    assert "potion_fast" in page.read_text(encoding="utf-8")
    assert "\nNot measured: there is no `results/none.csv`.\n" in page.read_text(encoding="utf-8")


def test_the_exactness_of_layers_and_networks_is_counted(tmp_path: Path):
    script("exactness.py", tmp_path, "--layers", "Linear-2d", "GRUCell", "--networks", 6, "--processes", 1)
    with (tmp_path / "layers.csv").open(newline="", encoding="utf-8") as file:
        passes = {(row["layer"], row["dtype"]): row for row in csv.DictReader(file)}
    assert int(passes["Linear-2d", "float64"]["by rule"]) > 0 and passes["Linear-2d", "float64"]["cases"] == "2"
    assert int(passes["GRUCell", "bfloat16"]["by rule"]) == 0 and passes["GRUCell", "bfloat16"]["cases"] == "1"
    printed = script("exactness.py", "--markdown", tmp_path / "layers.csv", tmp_path / "networks.csv")
    assert "| passes over every layer, float64 | 96 |" in printed
