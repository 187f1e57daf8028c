"""`potion-fast find`: poison in the data of a training run, or in a user's own."""

from __future__ import annotations

import argparse
from typing import Any

from ..bench.configs.find import FindConfig
from ..errors import DataError
from ..user.own_config import OwnFindConfig
from .heal import add_both, refuse_others
from .output import DONE, Options, print_json, print_text, run_options

EXAMPLE = "potion-fast find --weights model.pth --model timm:resnet18 --data DIR --out OUT"


def add_find(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `find`."""
    parser.description = f"{parser.description} Of your own model: {EXAMPLE}"
    add_both(parser, FindConfig, OwnFindConfig)


def run_find(options: Options) -> int:
    """Search, and print the report."""
    own, of_run = OwnFindConfig.flag_fields(), FindConfig.flag_fields()
    if ("run" in options) == ("weights" in options):
        raise DataError(f"name one model: the folder of a training run (RUN), or your own, as in {EXAMPLE}")
    if "run" in options:
        refuse_others(options, own, of_run, "belongs to a model of your own (--weights); a training run has its data")
        from ..bench.runs import find_run

        content = find_run(FindConfig.from_flags(options), **run_options(options))
    else:
        refuse_others(options, of_run, own, "belongs to a training run (RUN); leave it out")
        from ..user.own_find import find_own

        content = find_own(OwnFindConfig.from_flags(options), **run_options(options))
    if options["json"]:
        print_json(content)
        return DONE
    for line in find_lines(content, options["out"]):
        print_text(line)
    return DONE


def find_lines(content: dict[str, Any], out: str) -> list[str]:
    """The report of a search, in words."""
    lines = []
    if "given_accuracy" in content:
        known = f"{content['given_accuracy']:.1%} of {content['given_accuracy_samples']:,} training labels"
        lines.append(f"given model: {known} are right")
    lines.append(f"suspects: {content['suspects']:,} of {content['samples']:,} samples; {content['why']}")
    for row in content["labels"]:
        p_value = "" if row["p_value"] is None else f", p = {row['p_value']:.2g}"
        note = f"; {row['note']}" if row["note"] else ""
        lines.append(f"  {row['name']}: {row['suspects']:,} of {row['samples']:,} suspect{p_value}{note}")
    lines += [f"note: {note}" for note in content["warnings"]]
    if content["suspects"]:
        lines.append(f"look at them, then: potion-fast heal ... --suspects {out}/suspects.csv")
    return [*lines, f"run folder: {out}"]
