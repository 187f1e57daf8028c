"""Exit codes, flags that several commands have, and how results are printed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from ..errors import FileError

DONE, FAILED, NOT_HEALED, INTERRUPTED = 0, 1, 3, 130  # argparse ends with 2
EXIT_CODES = (
    "exit codes: 0 done; 1 an error, named on stderr; 2 wrong usage; "
    "3 done, but the search ended before its threshold, or the model is not healed; 130 interrupted"
)

Options = dict[str, Any]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that writes a run folder."""
    add_json(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="run folder to write; must be new or empty")
    parser.add_argument("--overwrite", action="store_true", help="write over an earlier run in --out")
    parser.add_argument("--quiet", action="store_true", help="print the result alone: no progress bars, no commentary")


def run_options(options: Options) -> Options:
    """The arguments of a function that writes a run folder, from the flags of `add_run_flags`."""
    return {"out": options["out"], "overwrite": options["overwrite"], "progress": not options["quiet"]}


def print_json(content: dict[str, Any]) -> None:
    """Print a result as strict JSON."""
    print_text(json.dumps(content, indent=2, allow_nan=False))


def print_text(text: str) -> None:
    """Print at once. A reader that has gone away, as `| head` does, loses the lines and not the run.

    Raises:
        FileError: the text cannot be printed for another reason.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit stumbles over the same lines
        if not isinstance(error, BrokenPipeError):
            raise FileError(f"cannot print the result: {error}") from error


def print_metrics(content: dict[str, Any], options: Options) -> int:
    """Print what a run wrote to metrics.json, as text or as JSON.

    Returns:
        The exit code.
    """
    from ..search import STRATEGIES

    if options["json"]:
        print_json(content)
        return exit_code(content)
    for metric in content["metrics"].values():
        name = metric["name"].replace("_", " ")
        value, ideal = format_value(metric, "value"), format_value(metric, "ideal")
        print_text(f"{name:20}{value:>26}   ideal {ideal}; {metric['denominator']}")
    if verdict := (content.get("search") or content.get("healing") or {}).get("verdict"):
        print_text(f"verdict: {verdict}")
    if search := content.get("search"):
        print_text(f"search: {search['reason']} after {search['steps']} {STRATEGIES[search['strategy']].trace_unit}")
    if healing := content.get("healing"):
        for line in format_healing(healing, content["suspects"]):
            print_text(line)
    for note in content["warnings"]:
        print_text(f"note: {note}")
    print_text(f"run folder: {options['out']}")
    return exit_code(content)


def exit_code(content: dict[str, Any]) -> int:
    """The exit code of a run: whether its search, where it has one, reached its threshold."""
    from ..search import THRESHOLD_PASSED

    search, healing = content.get("search"), content.get("healing")
    passed = search is None or search["reason"] == THRESHOLD_PASSED
    return DONE if passed and (healing is None or healing["healed"]) else NOT_HEALED


def format_healing(healing: dict[str, Any], suspects: dict[str, Any]) -> list[str]:
    """Lines on the suspects of a healing, counted against what the bench knows of the poison, and on its end."""
    rest = f"{suspects['hidden_suspects']:,} of the {suspects['hidden']:,} poisoned samples that were not given"
    return [
        f"suspects: {suspects['suspects']:,}, among them {rest}, and {suspects['clean']:,} clean ones",
        f"labels: {healing['labels']}; {suspects['labels_right']:,} of {suspects['labelled']:,} are right",
        f"healing: {healing['reason']}, at the cost of {healing['epochs']:.2f} epochs",
    ]


def format_value(metric: dict[str, Any], name: str) -> str:
    """A metric's value, or its ideal value, with the unit."""
    value, unit = metric[name], metric["unit"]
    if value is None:
        return "not finite"
    if unit == "loss":  # may be a millionth
        return f"{value:.4g}"
    return f"{100 * value:.2f} %" if unit == "fraction" else f"{value:.2f} {'%' if unit == 'percent' else unit}"
