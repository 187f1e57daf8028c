"""The tables of the Markdown files, generated from the committed results.

    tables.py [FILE ...]           write every table anew, by default in both READMEs and in docs
    tables.py --check [FILE ...]   end with 1 and name the tables that are not up to date

A table stands between `<!-- table: SCRIPT ARGUMENTS -->` and `<!-- end of table -->`: what that script of this folder
prints, its paths relative to this folder. Where a CSV of its arguments is not there, the table says "not measured".
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = [HERE.parent / "README.md", HERE / "README.md", HERE.parent / "docs" / "cost-model.md"]
TABLE = re.compile(r"(<!-- table: (?P<command>.*?) -->\n)(?P<text>.*?)(<!-- end of table -->)", re.DOTALL)


def made(command: str) -> str:
    """What a command prints."""
    script, *arguments = shlex.split(command)
    missing = [name for name in arguments if name.endswith(".csv") and not (HERE / name).exists()]
    if missing:
        return f"Not measured: there is no `{missing[0]}`.\n"
    printed, before = io.StringIO(), (sys.argv, Path.cwd())
    sys.path.insert(0, str(HERE))
    try:
        os.chdir(HERE)
        sys.argv = [script, *arguments]
        with contextlib.redirect_stdout(printed):
            importlib.import_module(script.removesuffix(".py")).main()
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
        sys.path.remove(str(HERE))
    return printed.getvalue().strip("\n") + "\n"


def renewed(text: str) -> tuple[str, list[str]]:
    """A Markdown file with its tables made anew, and the commands of those that have changed."""
    changed: list[str] = []

    def table(found: re.Match[str]) -> str:
        new = f"\n{made(found['command'])}\n"
        if new != found["text"]:
            changed.append(found["command"])
        return found[1] + new + found[4]

    return TABLE.sub(table, text), changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", default=FILES)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    old = []
    for path in options.files:
        text, changed = renewed(path.read_text(encoding="utf-8"))
        old += [f"{path}: {command}" for command in changed]
        if changed and not options.check:
            path.write_text(text, encoding="utf-8")
    if old and options.check:
        sys.exit("\n".join(["not up to date; run benchmarks/tables.py:", *old]))


if __name__ == "__main__":
    main()
