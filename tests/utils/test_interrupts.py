"""Ctrl-C that waits for the end of an update."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from potion_fast.utils.interrupts import deferred_interrupts, update


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Python's own handler before, and nothing left behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_takes_effect_at_the_end_of_the_outermost_update() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        with update():
            with update():
                press()
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]


def test_a_second_ctrl_c_takes_effect_at_once() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts(), update():
        press()
        done.append("first")
        press()
        done.append("second")
    assert done == ["first"]


def test_ctrl_c_outside_an_update_takes_effect_at_once() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        with update():
            pass
        press()
        done.append("after")
    assert not done


def test_an_update_by_itself_defers_nothing() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), update():
        press()
        done.append("after")
    assert not done


def test_an_error_of_the_update_is_raised_and_the_ctrl_c_is_not_kept_for_later() -> None:
    with deferred_interrupts():
        with pytest.raises(ValueError, match="of the update"), update():
            press()
            raise ValueError("of the update")
        with update():
            pass


def test_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupts(), update():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        press()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_another_thread_is_left_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with deferred_interrupts(), update():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
