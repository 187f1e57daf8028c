"""The figures of the campaign at the end of its output."""

from __future__ import annotations

from typing import Any

from campaign import FULL, figures


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FULL and figures:
        terminalreporter.section("the fault campaign")
        for line in figures:
            terminalreporter.write_line(line)
