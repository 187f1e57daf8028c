"""The script for GPU machines, run with stand-ins for the programs that it calls."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
STAGES = ["build", "tests", "sanitizer", "end_to_end", "profile", "benchmarks"]


def run(tmp_path: Path, *stages: str, python: str = "exit 0", seconds: str = "") -> tuple[int, list[str], Path]:
    """The script's status, the command lines that it ran, and its output folder. `python` is what python3 does."""
    bin_, log, out = tmp_path / "bin", tmp_path / "calls", tmp_path / "out"
    bin_.mkdir(exist_ok=True)
    script = SCRIPT
    if seconds:  # of every stage
        text = re.sub(r"\]=\d+", f"]={seconds}", SCRIPT.read_text(encoding="utf-8"))
        script = tmp_path / "benchmarks" / "gpu.sh"
        script.parent.mkdir(exist_ok=True)
        script.write_text(text, encoding="utf-8")
    for name, does in {"python3": python, "compute-sanitizer": "exit 0", "nvidia-smi": "echo name, driver"}.items():
        (bin_ / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\n{does}\n', encoding="utf-8")
        (bin_ / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", script, out, *stages], env=path, capture_output=True, text=True, timeout=60)
    return done.returncode, log.read_text(encoding="utf-8").splitlines() if log.exists() else [], out


def test_all_stages_run_in_order_and_leave_a_log_each(tmp_path: Path):
    status, calls, out = run(tmp_path)
    assert status == 0
    first = ["pip install", "tests/ops", "memcheck", "end_to_end.py", "step_profile.py", "candidates.py"]
    places = [next(i for i, call in enumerate(calls) if word in call) for word in first]
    assert places == sorted(places)
    logs = {path.stem for path in out.glob("*.log")}
    assert logs >= {"build", "tests", "tests_engine", "sanitizer", "sanitizer_triton", "end_to_end", "step_profile"}
    assert logs >= {"candidates", "photographs", "benchmarks"}
    assert (out / "machine.csv").read_text() == "name, driver\n"


def test_everything_that_is_named_exists_and_every_script_knows_its_options(tmp_path: Path):
    _, calls, out = run(tmp_path, *STAGES, "compiled", "tune")
    for call in calls:
        for name in re.findall(r"(?:tests|benchmarks)/[\w/]+\.py", call):
            assert (ROOT / name).exists(), name
            if name.startswith("benchmarks/"):
                known = (ROOT / name).read_text(encoding="utf-8")
                for option in re.findall(r"--[a-z-]+", call):
                    assert f'"{option}"' in known, f"{name} has no {option}"


def test_a_stage_that_fails_does_not_stop_the_others_but_the_script_fails(tmp_path: Path):
    status, calls, _ = run(tmp_path, "tests", "profile", python='[[ "$*" != *tests/ops* ]]')
    assert status == 1
    assert any("step_profile.py" in call for call in calls)


def test_a_stage_that_takes_too_long_is_ended_and_the_next_one_has_its_time(tmp_path: Path):
    start = time.monotonic()
    status, calls, _ = run(tmp_path, "tests", "profile", python='[[ "$*" != *tests/* ]] || sleep 30', seconds="1")
    assert status == 1
    assert time.monotonic() - start < 10
    assert any("step_profile.py" in call for call in calls)


def test_stages_can_be_picked_and_one_that_is_unknown_is_named_before_anything_runs(tmp_path: Path):
    status, calls, _ = run(tmp_path, "profile")
    assert (status, len(calls)) == (0, 1)
    (tmp_path / "calls").unlink()
    status, calls, _ = run(tmp_path, "profile", "dance")
    assert (status, calls) == (2, [])


def test_all_stages_end_within_nine_minutes():
    given = dict(re.findall(r"\[(\w+)\]=(\d+)", SCRIPT.read_text(encoding="utf-8")))
    assert sum(int(given[stage]) for stage in STAGES) <= 9 * 60


@pytest.mark.parametrize("name", ["end_to_end", "step_profile", "photographs", "candidates"])
def test_a_csv_of_the_script_is_one_of_the_readme(name: str):
    assert f"results/gpu/{name}.csv" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
