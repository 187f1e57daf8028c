"""Jobs for processes that are killed, starved or run concurrently, forked from one that has all modules loaded.

Each makes the file `begun` in its folder when it starts to work.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import potion_fast as pf
from helpers.toys import batches, net, samples
from potion_fast.bench.models import create_model, save_model
from potion_fast.bench.runs import TrainConfig, train_run
from potion_fast.bench.sweep import run_sweep
from potion_fast.errors import FileError
from potion_fast.user.run_folder import RunFolder

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["potion_fast.bench.sweep"])

TINY: dict[str, Any] = {"train_size": 200, "width": 2, "iterations": 12, "patch_size": 3, "poisoned": 16, "found": 4}
REFUSED = 7  # exit code: another process writes to the folder
Job = Callable[..., None]


def begin(folder: Path) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell runs in the background
    (folder / "begun").touch()


def loader() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(*samples(90), 3)


def passing(folder: Path) -> None:
    """A pass that writes a checkpoint after every batch, and resumes from it."""
    begin(folder)
    checkpoint = folder / "pass.safetensors"
    result = pf.importance(
        net(), loader(), ["xlf", "ssd"], group_size=1, checkpoint=checkpoint, checkpoint_seconds=0, resume=True
    )
    result[0].save(folder / "result.safetensors")


def stored(number: int) -> pf.Importance:
    n = 1 << 18
    return pf.Importance(torch.full((n,), float(number + 1)), {"a": (n,)}, 5 + number, 5, "xlf", 1, "0")


def metadata() -> dict[str, Any]:
    return {"architecture": "small_cnn", "num_classes": 4, "in_channels": 1, "options": {"width": 32}}


def model(number: int) -> torch.nn.Module:
    torch.manual_seed(number)
    return create_model("small_cnn", 4, 1, width=32)


def saving(folder: Path) -> None:
    """Save two contents alternately to the same files."""
    models, contents = [model(0), model(1)], [stored(0), stored(1)]
    begin(folder)
    for number in range(24):
        contents[number % 2].save(folder / "x.safetensors")
        save_model(folder / "model.safetensors", models[number % 2], metadata())


def training(folder: Path) -> None:
    begin(folder)
    try:
        train_run(TrainConfig(**TINY, device="cpu"), folder / "run", overwrite=True)
    except FileError as error:
        assert "another process" in str(error) or "already there" in str(error), error
        sys.exit(REFUSED)


def holding(folder: Path) -> None:
    """A run that does not end."""
    run = RunFolder.create(folder / "run")
    run.write_config("train", {})
    time.sleep(600)


def sweeping(folder: Path) -> None:
    begin(folder)
    run_sweep(folder / "sweep.yaml", folder / "out")


def reporting(folder: Path) -> None:
    from potion_fast.bench.report import report_sweep  # the other jobs do without its pictures

    begin(folder)
    report_sweep(folder / "out", folder / "report", samples=0)


def started(job: Job, *arguments: Any) -> Any:
    process = CONTEXT.Process(target=job, args=arguments)
    process.start()
    return process


def ended(job: Job, *arguments: Any) -> int:
    """The exit code of a process that does the job."""
    process = started(job, *arguments)
    process.join()
    return int(process.exitcode)


def seconds_of(job: Job, folder: Path) -> float:
    """How long the job takes from `begun` to its end."""
    assert ended(job, folder) == 0
    return time.time() - (folder / "begun").stat().st_mtime


def stopped(job: Job, folder: Path, seconds: float, number: int, draw: random.Random) -> int:
    """The exit code of a process that gets a signal at a random moment of so many seconds of its work."""
    process = started(job, folder)
    while not (folder / "begun").exists() and process.is_alive():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, seconds))
    with contextlib.suppress(ProcessLookupError):  # it has ended before its signal
        os.kill(process.pid, number)
    process.join()
    return int(process.exitcode)


def on_a_small_disk(job: Job, folder: Path, size: int) -> None:
    """Run the job in a folder that is a disk of `size` bytes, visible to this process alone.

    Exits with 77 if no disk may be mounted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, 0x4000 | 0x40000
    flags = new_namespace if os.geteuid() == 0 else new_namespace | 0x10000000
    if libc.unshare(flags) or libc.mount(b"none", b"/", None, private, None):
        os._exit(77)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()):
        os._exit(77)

    def grow(more: int) -> None:
        assert not libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0x20, f"size={more}".encode())

    job(folder, grow)
