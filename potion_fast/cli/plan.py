"""`potion-fast plan`: what unlearning takes."""

from __future__ import annotations

import argparse

from ..bench.costs.command import add_plan_flags, plan_costs
from ..bench.costs.format import format_costs
from .output import DONE, Options, add_json, print_json, print_text


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `plan`."""
    add_json(parser)
    add_plan_flags(parser)


def run_plan(options: Options) -> int:
    """Measure or read the rates, and print the costs."""
    content = plan_costs(options)
    if options["json"]:
        print_json(content)
    else:
        print_text("\n".join(format_costs(content)))
    return DONE
