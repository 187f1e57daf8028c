"""Limits on a piece of code: no write outside a folder, no socket, no process, bounded time and memory.

An audit hook cannot be removed, so there is one for the whole process, which is active only within `watched`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ON_PATHS = {  # events -> how many of their first arguments are paths that are changed
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "shutil.rmtree"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink", "shutil.move"), 2),
}
NEVER = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.",
    "ftplib.",
    "urllib.",
    "smtplib.",
    "http.",
    "webbrowser.",
    "pickle.find_class",
)


class ForbiddenError(BaseException):
    """The watched code did something forbidden; no `except Exception` catches this."""


class _Watch:
    installed = False
    folder: str | None = None
    seen: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _Watch.folder is None:
        return
    if event == "open":
        path, _, flags = arguments
        bad = isinstance(flags, int) and flags & WRITING and _outside(path)
    elif event in ON_PATHS:
        below = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # of a folder that rmtree was asked to remove
        bad = not below and any(_outside(path) for path in arguments[: ON_PATHS[event]])
    else:
        bad = event.startswith(NEVER)
    if bad:
        _Watch.seen.append(f"{event}{arguments[:2]}")
        raise ForbiddenError(_Watch.seen[-1])


def _outside(path: Any) -> bool:
    if isinstance(path, int) or path is None:  # a descriptor, whose opening was seen
        return False
    where = os.path.realpath(os.fsdecode(path))
    return where != "/dev/null" and not f"{where}{os.sep}".startswith(f"{_Watch.folder}{os.sep}")


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Forbid, within the block, writing outside `folder` and opening a socket or a process.

    Raises ForbiddenError at once, and again at the end of the block if something caught it.
    """
    if not _Watch.installed:
        sys.addaudithook(_hook)
        _Watch.installed = True
    tempfile.gettempdir()  # which finds a folder by writing to it
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _Watch.seen, _Watch.folder = [], os.path.realpath(folder)
    try:
        yield
    finally:
        _Watch.folder, sys.dont_write_bytecode = None, bytecode
    if _Watch.seen:
        raise ForbiddenError(_Watch.seen[0])


class HangError(BaseException):
    """The block took too long."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise HangError if the block takes longer."""

    def stop(number: int, frame: Any) -> None:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """Limit the process, within the block, to `more` additional bytes of address space; further allocations fail."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
