"""The tables of the Markdown files, generated from the committed results.

    tables.py [FILE ...]           regenerate every table, by default those of both READMEs and of docs/cost-model.md
    tables.py --check [FILE ...]   write nothing; exit with 1 and name the tables that are not up to date

A table stands between `<!-- table: SCRIPT ARGUMENTS -->` and `<!-- end of table -->`. It is the output of that script
of `studies/`, run in this folder. Where a CSV among its arguments does not exist, the table says "Not measured".
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
STUDIES = HERE / "studies"
FILES = [HERE.parent / "README.md", HERE / "README.md", HERE.parent / "docs" / "cost-model.md"]
TABLE = re.compile(r"(<!-- table: (?P<command>.*?) -->\n)(?P<text>.*?)(<!-- end of table -->)", re.DOTALL)


def output_of(command: str) -> str:
    """Run a study's command and return what it prints."""
    script, *arguments = shlex.split(command)
    missing = [name for name in arguments if name.endswith(".csv") and not (HERE / name).exists()]
    if missing:
        return f"Not measured: there is no `{missing[0]}`.\n"
    printed, before = io.StringIO(), (sys.argv, Path.cwd())
    sys.path.insert(0, str(STUDIES))
    try:
        os.chdir(HERE)
        sys.argv = [script, *arguments]
        with contextlib.redirect_stdout(printed):
            importlib.import_module(script.removesuffix(".py")).main()
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
        sys.path.remove(str(STUDIES))
    return printed.getvalue().strip("\n") + "\n"


def regenerated(text: str) -> tuple[str, list[str]]:
    """Regenerate the tables of a Markdown text; return it with the commands of the tables that have changed."""
    changed: list[str] = []

    def table(match: re.Match[str]) -> str:
        new = f"\n{output_of(match['command'])}\n"
        if new != match["text"]:
            changed.append(match["command"])
        return match[1] + new + match[4]

    return TABLE.sub(table, text), changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", default=FILES)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is not up to date")
    options = parser.parse_args()
    outdated = []
    for path in options.files:
        text, changed = regenerated(path.read_text(encoding="utf-8"))
        outdated += [f"{path}: {command}" for command in changed]
        if changed and not options.check:
            path.write_text(text, encoding="utf-8")
    if outdated and options.check:
        sys.exit("\n".join(["not up to date; run benchmarks/tables.py:", *outdated]))


if __name__ == "__main__":
    main()
