"""`potion-fast demo`: a small model poisoned and healed."""

from __future__ import annotations

import argparse

from .output import Options, add_run_flags, exit_code, print_json, print_text, run_options


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `demo`."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one demo for each (default: 0)")
    add_run_flags(parser)


def run_demo(options: Options) -> int:
    """Poison, heal and draw, and print what happened."""
    from ..bench.runs.demo import demo

    say = (lambda line: None) if options["json"] else print_text
    content = demo(seeds=options["seeds"], say=say, **run_options(options))
    if options["json"]:
        print_json(content)
    return max(exit_code(seed["after"]) for seed in content["seeds"])
