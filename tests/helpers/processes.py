"""Several processes for one test, joined by gloo, each with one thread."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

PRELOADED = ["pytest", "hypothesis", "torch._dynamo", "torch.distributed.fsdp", "potion_fast.importances.fsdp_pass"]
SECONDS = 60.0  # for all ranks together
SLOWEST = 30.0  # for one exchange between them


def in_processes(
    n: int, function: Callable[..., Any], *args: Any, folder: Path, killed: Collection[int] = ()
) -> list[Any]:
    """What `function(*args)` of a test module returns on each of n ranks of a gloo group, by rank.

    folder  tmp_path: the ranks find each other, and leave their results, in a new folder there
    killed  ranks that are to die by SIGKILL, and have None for a result; the others are waited for

    Arguments and results are pickled. A rank that fails, dies or hangs fails the test, and its traceback is shown.
    """
    meeting = Path(tempfile.mkdtemp(dir=folder))
    context = multiprocessing.get_context("forkserver")  # one import of torch for all processes of all tests
    context.set_forkserver_preload(PRELOADED)
    ranks = [context.Process(target=_rank, args=(rank, n, meeting, function, args)) for rank in range(n)]
    deadline = time.monotonic() + SECONDS
    for process in ranks:
        process.start()
    try:
        while any(process.is_alive() for process in ranks):
            if any(p.exitcode and rank not in killed for rank, p in enumerate(ranks)):
                break
            if time.monotonic() > deadline:
                hanging = [rank for rank, process in enumerate(ranks) if process.is_alive()]
                pytest.fail(f"ranks {hanging} of {n} did not end within {SECONDS:g} s")
            time.sleep(0.01)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    failed = [f"rank {path.stem} of {n}:\n{path.read_text()}" for path in sorted(meeting.glob("*.error"))]
    if failed:
        pytest.fail("\n".join(failed))
    for rank, process in enumerate(ranks):
        wanted = -signal.SIGKILL if rank in killed else 0
        assert process.exitcode == wanted, f"rank {rank} of {n} ended with {process.exitcode}, not {wanted}"
    return [None if r in killed else pickle.loads((meeting / f"{r}.result").read_bytes()) for r in range(n)]


def _rank(rank: int, n: int, meeting: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        rendezvous = (meeting / "rendezvous").as_uri()
        dist.init_process_group(
            "gloo", init_method=rendezvous, rank=rank, world_size=n, timeout=timedelta(seconds=SLOWEST)
        )
        (meeting / f"{rank}.result").write_bytes(pickle.dumps(function(*args)))
        dist.destroy_process_group()
    except BaseException:
        (meeting / f"{rank}.error").write_text(traceback.format_exc())
        raise SystemExit(1) from None
