"""`potion-fast hypothesis shift` and `cosine`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..bench.hypotheses import CosineConfig, ShiftConfig, cosine_run, format_cosine, format_shift, shift_run
from ..user.flags import add_flags
from ..user.schema import Schema
from .output import DONE, EXIT_CODES, Options, add_run_flags, print_json, print_text, run_options

Content = dict[str, Any]
HYPOTHESES: dict[str, tuple[str, type[Schema], Callable[..., Content], Callable[[Content], list[str]]]] = {
    "shift": (
        "how far a linear classifier moves without its poison, or without clean samples",
        ShiftConfig,
        shift_run,
        format_shift,
    ),
    "cosine": (
        "whether gradients of clean samples point to where poison has to be undone",
        CosineConfig,
        cosine_run,
        format_cosine,
    ),
}


def add_hypothesis(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hypothesis`."""
    kinds = parser.add_subparsers(dest="hypothesis", required=True, metavar="HYPOTHESIS", help="which of the two")
    for name, (summary, schema, _, _) in HYPOTHESES.items():
        kind = kinds.add_parser(name, help=summary, description=f"{summary.capitalize()}.", epilog=EXIT_CODES)
        add_flags(kind, schema)
        add_run_flags(kind)


def run_hypothesis(options: Options) -> int:
    """Measure one of the two, and print what was found."""
    _, schema, run, in_words = HYPOTHESES[options["hypothesis"]]
    content = run(schema.from_flags(options), **run_options(options))
    if options["json"]:
        print_json(content)
    else:
        print_text("\n".join([*in_words(content), f"run folder: {options['out']}"]))
    return DONE
