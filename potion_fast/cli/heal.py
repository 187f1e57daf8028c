"""`potion-fast heal`: of a training run, or of a model and data of the user's own."""

from __future__ import annotations

import argparse
from typing import Any

from ..bench.configs import HealConfig
from ..errors import DataError
from ..user.flags import add_flags
from ..user.own_config import OwnHealConfig
from ..user.schema import Schema
from .output import Options, add_run_flags, exit_code, print_json, print_metrics, print_text, run_options

EXAMPLE = "potion-fast heal --weights model.pth --model timm:resnet18 --data DIR --found found.txt --out OUT"


def add_heal(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `heal`."""
    parser.description = f"{parser.description} Or, without RUN, of your own model: {EXAMPLE}"
    add_both(parser, HealConfig, OwnHealConfig)


def add_both(parser: argparse.ArgumentParser, schema: type[Schema], own_schema: type[Schema]) -> None:
    """Add the flags of a command on a training run, and on a model of the user's own, in groups."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN", default=argparse.SUPPRESS, help="folder of a training run of this package"
    )
    own, of_run = own_schema.flag_fields(), schema.flag_fields()
    mine = parser.add_argument_group("your own model and data")
    add_flags(mine, own_schema, [name for name in own if name not in of_run or name in ("model", "data", "found")])
    add_flags(parser, own_schema, [name for name in own if name in of_run and name not in ("model", "data", "found")])
    theirs = parser.add_argument_group("a training run of this package")
    add_flags(theirs, schema, [name for name in of_run if name != "run" and name not in own])
    add_run_flags(parser)


def run_heal(options: Options) -> int:
    """Heal, and print the report."""
    own, of_run = OwnHealConfig.flag_fields(), HealConfig.flag_fields()
    if "run" in options and "weights" in options:
        raise DataError("RUN and --weights are two models to heal; give one of them")
    if "run" in options:
        refuse_others(
            options, own, of_run, "belongs to a model of your own (--weights); a training run has its data with it"
        )
        from ..bench.runs import heal_run

        return print_metrics(heal_run(HealConfig.from_flags(options), **run_options(options)), options)
    if "weights" not in options:
        raise DataError(f"name what to heal: the folder of a training run (RUN), or your own model, as in {EXAMPLE}")
    refuse_others(options, of_run, own, "belongs to the healing of a training run (RUN); leave it out")
    from ..user.own_heal import heal_own

    content = heal_own(OwnHealConfig.from_flags(options), **run_options(options))
    if options["json"]:
        print_json(content)
    else:
        for line in own_lines(content, options["out"]):
            print_text(line)
    return exit_code(content)


def refuse_others(options: Options, others: Any, mine: Any, why: str) -> None:
    """Raise DataError for a flag that the other form of the command has alone."""
    for name in others:
        if name in options and name not in mine:
            raise DataError(f"--{name.replace('_', '-')} {why}")


def attack_line(attack: dict[str, Any]) -> str:
    """The estimated attack success of metrics.json, in words."""
    before, after = (attack[name] and f"{attack[name]['success']:.1%}" for name in ("before", "after"))
    if not before:
        return f"not known: {attack['why']}"
    end = f"{attack['after']['low']:.1%} to {attack['after']['high']:.1%}"
    end += f"; {attack['after']['without']:.1%} without the trigger"
    return f"{before} before, {after} after ({end}), estimated: {attack['why']}"


def own_lines(content: dict[str, Any], out: str) -> list[str]:
    """The report of a healing of the user's own model, in words."""
    healing = content["healing"]
    before, after = healing["before"], healing["after"]
    fitting, found = healing["found_that_fit"], healing["found"]
    known = f"{content['given_accuracy']:.1%} of {content['given_accuracy_samples']:,} training labels"
    poison = [f"{evaluation['poison_accuracy']:.1%}" for evaluation in (before, after)]
    lines = [] if content["inputs"] is None else [content["inputs"]]
    lines += [
        f"given model: {known} are right",
        f"suspects: {healing['suspects'] - fitting:,} of {content['samples']:,} beside {fitting} of {found} found "
        f"({healing['kind']}); {healing['why']}",
        f"labels: {healing['labels']}; {healing['why_labels']}",
        f"suspects with the poison's label: {poison[0]} before, {poison[1]} after",
        f"clean accuracy: {after['clean_change']:+.1f} ± {after['clean_error']:.1f} points ({healing['judged_by']})",
        f"attack success: {attack_line(healing['attack_success'])}",
        f"{'healed' if healing['healed'] else 'NOT healed'}: {healing['reason']}, at the cost of "
        f"{healing['epochs']:.2f} epochs",
    ]
    lines += [f"note: {note}" for note in content["warnings"]]
    return [*lines, f"healed weights: {content['weights']}", f"run folder: {out}"]
