"""Progress bars: on a terminal and in notebooks, and nowhere else."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest

from potion_fast.utils import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class OutStream(io.StringIO):  # as ipykernel's, which is no terminal
    pass


OutStream.__module__ = "ipykernel.iostream"


@pytest.mark.parametrize(("stream", "seen"), [(Terminal, True), (OutStream, True), (io.StringIO, False)])
def test_a_bar_shows_on_a_terminal_and_in_a_notebook(
    stream: type[io.StringIO], seen: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", stream())
    for shown in (True, False):
        assert list(progress.bar(range(3), label="passes", unit="pass", shown=shown)) == [0, 1, 2]
        assert ("passes" in sys.stderr.getvalue()) == (seen and shown)  # type: ignore[attr-defined]
        sys.stderr.seek(0)
        sys.stderr.truncate()


NOTEBOOK = """
import io, sys, types, warnings

warnings.simplefilter("error")
sys.modules["ipywidgets"] = None  # not installed
for name in ("IPython", "ipykernel", "ipykernel.zmqshell"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["IPython"].get_ipython = lambda: type("ZMQInteractiveShell", (), {})()
Stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
from potion_fast.utils import progress

progress.DELAY, terminal, sys.stderr = 0, sys.stderr, Stream()
assert list(progress.bar(range(3), label="passes", unit="pass", shown=True)) == [0, 1, 2]
shown, sys.stderr = sys.stderr.getvalue(), terminal
assert "passes" in shown, shown
"""


def test_a_notebook_without_ipywidgets_gets_a_bar_of_text_and_no_warning():
    done: Any = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
