"""Files that are written whole or not at all, and removal of what a killed process left half written."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import FileError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows, where nothing tells whether a folder is in use
    fcntl = None

UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part", re.DOTALL)  # what is to become the file of that name

_held: set[int] = set()  # descriptors


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check beforehand that a file can be written there, as far as that can be known.

    Raises:
        FileError: It is a folder, or its own folder does not exist or cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"cannot write {target}: it is a folder; give the path of a file in it")
    if not target.parent.is_dir():
        raise FileError(f"cannot write {target}: the folder {target.parent} does not exist")
    with _place_beside(target):
        pass


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path on the same disk, which replaces `path` if the block ends without an error.

    The temporary path is in a folder of its own next to `path`, as safetensors writes to yet another file. A process
    that is killed leaves that folder, and the next one that writes to `path` removes it.

    Raises:
        FileError: The folder of `path` does not exist, cannot be written to, or is full.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileError(f"cannot write {target}: the folder {target.parent} does not exist")
    with _place_beside(target) as folder:
        temporary = folder / target.name
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors makes files that only the owner reads
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(temporary, target)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary folder; it takes the place of `path`, missing or empty, when the block ends well.

    Where a process is killed, the next one that writes to `path` removes what it left.

    Raises:
        FileError: The folder of `path` cannot be written to, or is full.
    """
    with _place_beside(path) as folder:
        yield folder
        os.replace(folder, path)


@contextmanager
def _place_beside(target: Path) -> Iterator[Path]:
    """A new folder that is held during the block, and removed at its end if it is still there. Raises FileError."""
    try:
        remove_unfinished(target.absolute().parent, target.name)
        folder, descriptor = _unfinished(target)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            release(descriptor)
    except FileError:
        raise
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {target}: {error}") from error


def _unfinished(target: Path) -> tuple[Path, int | None]:
    """A new folder next to `target`, and the descriptor that locks it."""
    while True:
        folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        folder.mkdir()
        try:
            descriptor = hold(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process that writes the same file took it, just now, for one that was left behind
        if folder.exists():
            return folder, descriptor
        release(descriptor)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half written, and not what another is writing just now.

    Args:
        folder: Where to look.
        name: Of the file; None for any.
    """
    for entry in os.listdir(folder):
        found = UNFINISHED.fullmatch(entry)
        if found is None or name not in (None, found["name"]):
            continue
        with suppress(OSError):  # held by who writes it
            descriptor = hold(folder / entry)
            if descriptor is not None:
                shutil.rmtree(folder / entry, ignore_errors=True)
                release(descriptor)


def hold(folder: Path) -> int | None:
    """A descriptor that holds a folder until it is released or the process ends, however it ends.

    None where the file system has no such locks.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It cannot be opened.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    _held.add(descriptor)
    return descriptor


def release(descriptor: int | None) -> None:
    """Release a folder that `hold` holds."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _release_in_child() -> None:
    """A loader's worker must not hold the folder on when its parent is gone."""
    for descriptor in list(_held):
        release(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
