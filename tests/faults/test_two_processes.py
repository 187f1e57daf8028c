"""Two processes on one folder: one gets it, the other is refused, and the files are those of one run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from campaign import FULL, note
from helpers.run_files import metrics
from potion_fast.bench.runs import TrainConfig, train_run
from potion_fast.errors import FileError
from potion_fast.user.run_folder import RunFolder
from victims import REFUSED, TINY, ended, holding, started, sweeping, training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("attempt", range(10 if FULL else 1))
def test_of_two_runs_into_one_folder_one_is_refused(tmp_path: Path, attempt: int):
    both = [started(training, tmp_path) for _ in range(2)]
    codes = []
    for process in both:
        process.join()
        codes.append(process.exitcode)
    assert 0 in codes and set(codes) <= {0, REFUSED}
    train_run(TrainConfig(**TINY, device="cpu"), tmp_path / "alone")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "alone")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    note(f"two trainings into one folder: exit codes {sorted(codes)} ({REFUSED}: refused)")


def test_a_folder_that_another_process_writes_to_is_refused_until_it_ends(tmp_path: Path):
    other = started(holding, tmp_path)
    while not (tmp_path / "run" / "config.yaml").exists():
        assert other.is_alive()
    for run in (lambda: RunFolder.create(tmp_path / "run", overwrite=True), RunFolder(tmp_path / "run").claim):
        with pytest.raises(FileError, match="another process is writing"):
            run()
    assert (tmp_path / "run" / "config.yaml").exists()
    other.kill()  # with the folder in its hands
    other.join()
    RunFolder.create(tmp_path / "run", overwrite=True)


def test_a_process_may_begin_a_run_of_its_own_again(tmp_path: Path):
    """As in a notebook, where an error keeps the objects of the first attempt alive."""
    first = RunFolder.create(tmp_path / "run")
    first.write_config("train", {})
    second = RunFolder.create(tmp_path / "run", overwrite=True)
    del first
    assert ended(training, tmp_path) == REFUSED
    del second
    assert ended(training, tmp_path) == 0


@pytest.mark.skipif(not FULL, reason="takes a minute: `make faults` runs it")
def test_two_sweeps_share_one_folder(tmp_path: Path):
    from test_kills import a_sweep, rows_of

    whole, shared = a_sweep(tmp_path / "whole"), a_sweep(tmp_path / "shared")
    assert yaml.safe_load((shared / "sweep.yaml").read_text())
    both = [started(sweeping, shared) for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert ended(sweeping, whole) == 0
    assert rows_of(whole / "out") == rows_of(shared / "out")
    note("two sweeps on one folder: the rows of one alone")
