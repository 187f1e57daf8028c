"""The run of a sweep, by one process or several: what is left of its plan is done, and what is done stays."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import torch

from ...errors import PotionError
from .config import SweepConfig, load_sweep
from .estimate import estimate
from .executor import Executor
from .plan import SweepPlan, Task, make_plan
from .sweep_folder import SweepFolder

WAIT = 0.2  # seconds between looks at what other processes do


def run_sweep(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    root: str | None = None,
    processes: int = 1,
    only: str = "*",
    progress: bool = False,
) -> dict[str, Any]:
    """Do what is left of a sweep in its folder.

    A task that fails is named on stderr, and those that do not depend on it are done.

    Args:
        source: a preset or a file, see `load_sweep`.
        out: folder of the sweep.
        overrides: of its keys, see `load_sweep`.
        root: folder of the data.
        processes: so many share the work; they may also be started one by one, on the same folder.
        only: pattern of the keys of the unlearnings to do.
        progress: whether progress bars are shown, and tasks named that are done.

    Returns:
        "tasks", their number, and "undone", the keys of those that are left.

    Raises:
        PotionError: a sweep that is wrong, or a folder that holds another one.
    """
    if processes < 1:
        raise PotionError(f"processes must be at least 1, not {processes}")
    config = configured(source, overrides, root)
    wanted = chosen(make_plan(config), only)
    SweepFolder.begin(out, config)
    arguments = [os.path.basename(source) if str(source).endswith((".yaml", ".yml")) else str(source), *overrides]
    if processes == 1:
        work(config, out, arguments, only, bars=progress, lines=progress)
    else:
        _together(processes, config, out, arguments, only, lines=progress)
    remaining = SweepFolder(out)
    undone = [task.key for task in wanted.tasks if not remaining.done(task, wanted)]
    return {"tasks": len(wanted.tasks), "undone": undone}


def plan_sweep(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    root: str | None = None,
    only: str = "*",
) -> dict[str, Any]:
    """What `run_sweep` would do, and how long it would take; see `estimate`. Nothing is made."""
    config = configured(source, overrides, root)
    return {"name": config.name, **estimate(config, chosen(make_plan(config), only), out)}


def configured(source: str | os.PathLike[str], overrides: Sequence[str], root: str | None) -> SweepConfig:
    """Raises PotionError."""
    given = [] if root is None else [f"train.root={os.path.abspath(os.path.expanduser(root))}"]
    return load_sweep(source, [*overrides, *given])


def chosen(whole: SweepPlan, only: str) -> SweepPlan:
    """The part of a plan that the unlearnings of these keys need.

    Raises:
        PotionError: no key matches.
    """
    units = {key: unit for key, unit in whole.unlearnings.items() if fnmatchcase(key, only)}
    if not units:
        raise PotionError(f"no unlearning of the sweep is named {only!r}; the first is {next(iter(whole.unlearnings))}")
    return whole.part(units)


def work(
    config: SweepConfig,
    out: str | os.PathLike[str],
    arguments: Sequence[str],
    only: str,
    *,
    bars: bool = False,
    lines: bool = False,
) -> None:
    """Do one task after the other that nobody else is at, until none is left that can be done.

    Args:
        config: of the sweep.
        out: its folder.
        arguments: of the command line.
        only: pattern of the keys of the unlearnings to do.
        bars: whether progress bars are shown.
        lines: whether each task is named when it is done.
    """
    whole, folder = make_plan(config), SweepFolder(out)
    executor, failed = Executor(config, whole, folder, arguments, bars), set[str]()
    tasks = [task for task in chosen(whole, only).tasks if not folder.done(task, whole)]
    for retain_pass in whole.passes.values():
        folder.drop_unneeded(retain_pass, whole)  # a process may have been killed right behind its last result
    while tasks and not _orphaned():
        remaining: list[Task] = []
        for task in tasks:
            needs = whole.needs(task)
            if folder.done(task, whole):
                continue
            if any(need.key in failed for need in needs):
                failed.add(task.key)
                continue
            if not all(folder.done(need, whole) for need in needs):
                remaining.append(task)
                continue
            with folder.claimed(task) as claimed:
                if not claimed:
                    remaining.append(task)
                elif not folder.done(task, whole) and not _do(executor, task, lines):
                    failed.add(task.key)
        if len(remaining) == len(tasks):
            time.sleep(WAIT)
        tasks = remaining


def _do(executor: Executor, task: Task, lines: bool) -> bool:
    """Whether it went well."""
    start = time.perf_counter()
    try:
        executor.run(task)
    except PotionError as error:
        print(f"{task.key}: error: {error}", file=sys.stderr, flush=True)
        return False
    if lines:
        print(f"{task.key}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return True


def _together(
    processes: int, config: SweepConfig, out: str | os.PathLike[str], arguments: Sequence[str], only: str, lines: bool
) -> None:
    """The same by several processes, which share the cores."""
    context = multiprocessing.get_context("spawn")
    arguments_of_each = (
        max(1, torch.get_num_threads() // processes),
        config,
        os.fspath(out),
        list(arguments),
        only,
        lines,
    )
    started = [context.Process(target=_one_of_many, args=arguments_of_each) for _ in range(processes)]
    try:
        for process in started:
            process.start()
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()


def _one_of_many(threads: int, config: SweepConfig, out: str, arguments: Sequence[str], only: str, lines: bool) -> None:
    torch.set_num_threads(threads)
    with suppress(KeyboardInterrupt):  # the first process says so
        work(config, out, arguments, only, lines=lines)


def _orphaned() -> bool:
    """Whether this is one of many and the process that started it is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
