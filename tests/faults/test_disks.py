"""Disks that fill up: FileError, the old file unchanged, and success once there is room."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import potion_fast as pf
from campaign import FULL, note
from helpers.run_files import metrics
from helpers.toys import batches, net, samples
from potion_fast.bench.attacks import Perturbations
from potion_fast.bench.attacks.crafting.checkpoints import save_checkpoint
from potion_fast.bench.models import save_model
from potion_fast.bench.runs import TrainConfig, train_run
from potion_fast.cli.main import main
from potion_fast.errors import FileError, PotionWarning
from potion_fast.user.run_folder import RunFolder
from victims import TINY, ended, metadata, model, on_a_small_disk, stored

pytestmark = pytest.mark.usefixtures("one_thread")
LONG = "0123456789" * 5000


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Make writing beyond `size` bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def table() -> Perturbations:
    return Perturbations(torch.arange(40), torch.ones(40, 1, 20, 20))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "importances": lambda path: stored(1).save(path),
    "model": lambda path: save_model(path, model(1), metadata()),
    "perturbations": lambda path: table().save(path),
    "crafting": lambda path: save_checkpoint(path, {}, {"delta": torch.ones(9999)}, {}),
    "text": lambda path: RunFolder(path.parent).write_text(path.name, LONG),
    "json": lambda path: RunFolder(path.parent).write_json(path.name, {"a": LONG}),
    "csv": lambda path: RunFolder(path.parent).write_csv(path.name, ["a"], [[LONG]]),
    "config": lambda path: RunFolder(path.parent).write_config("train", {"a": LONG}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path, name: str):
    path = tmp_path / ("config.yaml" if name == "config" else "x.file")
    path.write_text("old")
    sizes = [0, 1, 100, 4096, 9999, 20_000, 30_000][:: 1 if FULL else 3]
    for size in sizes:
        with files_of_at_most(size), pytest.raises(FileError, match=path.name):
            WRITERS[name](path)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == [path.name]
    WRITERS[name](path)
    assert path.stat().st_size > 30_000 and os.listdir(tmp_path) == [path.name]


def test_a_pass_outlives_a_disk_that_fills_up(tmp_path: Path):
    """Once a checkpoint was written, later ones that fail do not stop the pass."""
    model, loader, path = net(), batches(*samples(12), 3), tmp_path / "pass.safetensors"
    whole = pf.importance(model, loader, group_size=1)

    def filling(loader: list[Any]) -> Iterator[Any]:
        yield from loader[:2]
        with files_of_at_most(100):
            yield loader[2]
        yield from loader[3:]

    with pytest.warns(PotionWarning, match=r"the pass continues, but .* cannot write .*pass\.safetensors"):
        found = pf.importance(model, filling(loader), group_size=1, checkpoint=path, checkpoint_seconds=0)
    assert torch.equal(found.sums, whole.sums) and not os.listdir(tmp_path)
    with files_of_at_most(100), pytest.raises(FileError, match=r"pass\.safetensors"):
        pf.importance(model, loader, group_size=1, checkpoint=path, checkpoint_seconds=0)
    assert not os.listdir(tmp_path)


def train_where_it_is_tight(folder: Path, grow: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    with pytest.raises(FileError, match="No space left"):
        train_run(TrainConfig(**TINY, device="cpu"), folder / "run")
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    grow(1 << 25)
    train_run(TrainConfig(**TINY, device="cpu"), folder / "run", overwrite=True)
    (folder.parent / "metrics").mkdir()
    (folder.parent / "metrics" / "metrics.json").write_bytes((folder / "run" / "metrics.json").read_bytes())


@pytest.mark.parametrize("size", [4096, 8192, 12288, 16384, 24576] if FULL else [12288])
def test_a_training_that_filled_its_disk_can_be_repeated_on_a_larger_one(tmp_path: Path, size: int):
    (tmp_path / "disk").mkdir()
    code = ended(on_a_small_disk, train_where_it_is_tight, tmp_path / "disk", size)
    if code == 77:
        pytest.skip("no disk may be mounted here: run it as root, or where users have namespaces of their own")
    assert code == 0
    train_run(TrainConfig(**TINY, device="cpu"), tmp_path / "whole")
    assert metrics(tmp_path / "metrics") == metrics(tmp_path / "whole")
    note(f"a training on a disk of {size:,} bytes: FileError, no half-written file, repeated on a larger one")


def test_a_full_terminal_is_an_error_of_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, as on Linux")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        before = os.dup(full.fileno())
        assert main(["doctor"]) == 1
        os.close(before)
    assert "cannot print the result" in capfd.readouterr().err
