"""Ctrl-C put off to the end of an update, for programs that ask for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _Deferral:
    """A handler of SIGINT, and the updates that it waits for."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self.updates = 0  # that are under way, one within the other
        self.pressed = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.updates and not self.pressed:
            self.pressed = True
        elif callable(self.previous):
            self.previous(number, frame)
        else:
            raise KeyboardInterrupt


_deferral: _Deferral | None = None  # in force


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """For the block, Ctrl-C in the middle of an update takes effect at its end, a second one at once.

    It is for a program's main thread, as signals are; in another thread, or where Ctrl-C is ignored, it does nothing.
    A pass over data that keeps checkpoints is interrupted between its batches then, and its file holds all that was
    done; without this, the file holds what was done at the last checkpoint.
    """
    global _deferral
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield
        return
    outer, _deferral = _deferral, _Deferral(previous)
    signal.signal(signal.SIGINT, _deferral.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        _deferral = outer


@contextmanager
def update() -> Iterator[None]:
    """Mark a block that should be completed: within `deferred_interrupts`, Ctrl-C waits for its end.

    Raises:
        KeyboardInterrupt: At the end of the block, where Ctrl-C was pressed in it.
    """
    deferral = _deferral
    if deferral is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    deferral.updates += 1
    try:
        yield
    finally:
        deferral.updates -= 1
        pressed = deferral.pressed
        deferral.pressed = pressed and deferral.updates > 0
    if pressed and not deferral.updates:
        raise KeyboardInterrupt
