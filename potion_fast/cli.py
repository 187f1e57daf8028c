"""The console script `potion-fast`: train, unlearn, evaluate, demo, doctor."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from . import __version__
from .errors import PotionError
from .experiments.config import DATA_DEFAULTS, TrainConfig, UnlearnConfig
from .modes import MODES, GroupSize

DONE, FAILED, USAGE, NOT_HEALED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = "exit codes: 0 done; 1 an error, named on stderr; 2 wrong usage; 3 done, but the search ended before its threshold; 130 interrupted"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    options = vars(parser().parse_args(arguments))
    command, as_json = options.pop("command"), options.pop("json")
    try:
        return COMMANDS[command](options, as_json)
    except PotionError as error:
        print(f"potion-fast {command}: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"potion-fast {command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="potion-fast", description="Remove poison from trained models.", epilog=EXIT_CODES
    )
    top.add_argument("--version", action="version", version=f"potion-fast {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = _command(commands, "train", "train a model on poisoned data; writes a run folder")
    _training_flags(train)
    unlearn = _command(commands, "unlearn", "heal the model of a training run; writes a run folder")
    _unlearning_flags(unlearn)
    evaluate = _command(commands, "evaluate", "evaluate the model of a run again; writes a run folder")
    evaluate.add_argument("run", help="folder of a training or unlearning run")
    _reference_flag(evaluate)
    _machine_flags(evaluate)
    demo = _command(commands, "demo", "poison a small model, heal it, and draw what happened; writes a run folder")
    demo.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N", help="one whole demo for each seed (default: 0)"
    )
    for command in (train, unlearn, evaluate, demo):
        command.add_argument("--out", required=True, metavar="DIR", help="run folder to write; must be new or empty")
        command.add_argument("--overwrite", action="store_true", help="write over an earlier run in --out")
        command.add_argument("--quiet", action="store_true", help="no progress bars and no commentary")
    _command(commands, "doctor", "what is built, what this machine has, and which backend runs each operation")
    return top


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=EXIT_CODES)
    command.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    return command


def _training_flags(command: argparse.ArgumentParser) -> None:
    by_data = {name: ", ".join(f"{data} {d[name]}" for data, d in DATA_DEFAULTS.items()) for name in DATA_DEFAULTS["digits"]}
    add = command.add_argument
    add("--data", choices=DATA_DEFAULTS, default="digits", help="data set (default: digits, embedded); folder: train/<class>/*, test/<class>/*")
    add("--root", metavar="DIR", help="folder of the data (default: $POTION_FAST_DATA)")
    add("--train-size", type=int, metavar="N", help="use so many training images, drawn by the seed (default: all)")
    add("--image-size", type=int, metavar="PIXELS", help="scale and crop the images of a folder to this side")
    add("--model", help=f"architecture (default: {by_data['model']})")
    add("--width", type=int, metavar="N", help=f"channels of its first layer (default: {by_data['width']})")
    add("--poison", default="badnet", help="kind of trigger (default: badnet)")
    add("--patch-size", type=int, default=3, metavar="PIXELS", help="side of the patch (default: 3)")
    add("--corner", default="bottom-right", help="corner of the patch (default: bottom-right)")
    add("--trigger-value", type=float, metavar="X", help="value of the patch, in units of the normalised image (default: the largest of the training set)")
    add("--target", type=int, default=0, metavar="CLASS", help="label that the poison gives (default: 0)")
    add("--poisoned", type=int, default=64, metavar="N", help="poisoned training samples, S_m (default: 64)")
    add("--found", type=int, default=16, metavar="N", help="those of them written to found.txt, S_f (default: 16)")
    add("--leave-out-poisoned", action="store_true", help="train without any of S_m: the reference of poison healed")
    add("--iterations", type=int, metavar="N", help=f"optimiser steps (default: {by_data['iterations']})")
    add("--batch-size", type=int, metavar="N", help=f"samples per step (default: {by_data['batch_size']})")
    add("--lr", type=float, metavar="X", help=f"peak learning rate (default: {by_data['lr']})")
    add("--momentum", type=float, default=0.9, metavar="X", help="of SGD (default: 0.9)")
    add("--weight-decay", type=float, default=5e-4, metavar="X", help="of SGD, on all parameters (default: 5e-4)")
    add("--keep", choices=("last", "test", "validation"), help="keep the last epoch, or the best on the test or a validation set (default: the mode's)")
    add("--validation", type=int, metavar="N", help="training samples held out to choose the epoch (default: a tenth with --keep validation, else 0)")
    _mode_flag(command)
    _machine_flags(command)


def _unlearning_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("run", help="folder of the training run")
    add("--forget", metavar="FILE", help="indices of the found samples, S_f: .txt, .csv, .json or .npy (default: found.txt of the run)")
    _reference_flag(command)
    add("--objective", help="of the importances: xlf, lf or ssd (default: xlf)")
    add("--w", type=float, metavar="X", help="instead of an objective: the exponent of the output's norm (equation 4)")
    add("--group-size", type=_group_size, metavar="N", help='samples whose loss is averaged before |gradient| is taken, or "batch" (default: the mode\'s; 1)')
    add("--rho", type=float, default=0.2, metavar="X", help="stop when the accuracy on S_f is down to this share of what it was, in [0, 1] (default: 0.2)")
    add("--b-start", type=float, metavar="X", help="the search starts at s = X times the share of S_f in the data (default: the mode's; 1/25)")
    add("--s-step", type=float, default=1.1, metavar="X", help="factor on s after each step, above 1 (default: 1.1)")
    add("--max-steps", type=int, default=500, metavar="N", help="steps of the search at most (default: 500)")
    add("--batch-size", type=int, metavar="N", help="samples per batch (default: the training's)")
    add("--curve", action="store_true", help="also evaluate the test set along the search, for the picture")
    _mode_flag(command)
    _machine_flags(command)


def _mode_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--mode", choices=MODES, default="default", help="defaults that measured best, of the public code (reference) or as printed (paper); default: default")


def _reference_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reference", metavar="DIR", help="training run with --leave-out-poisoned: what poison healed is measured against")


def _machine_flags(command: argparse.ArgumentParser) -> None:
    if command.prog.split()[-1] != "evaluate":
        command.add_argument("--seed", type=int, default=0, metavar="N", help="of every random draw (default: 0)")
        command.add_argument("--workers", type=int, default=0, metavar="N", help="processes that load data (default: 0, none)")
    command.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: a CUDA GPU where there is one)")


def _group_size(text: str) -> GroupSize:
    return "batch" if text == "batch" else int(text)


def _train(options: dict[str, Any], as_json: bool) -> int:
    from .experiments import train_run

    content = train_run(_config(TrainConfig, options), **_run_options(options))
    return _report(content, as_json, options["out"])


def _unlearn(options: dict[str, Any], as_json: bool) -> int:
    from .experiments import unlearn_run
    from .search import THRESHOLD_PASSED

    content = unlearn_run(_config(UnlearnConfig, options), **_run_options(options))
    _report(content, as_json, options["out"])
    return DONE if content["search"]["reason"] == THRESHOLD_PASSED else NOT_HEALED


def _evaluate(options: dict[str, Any], as_json: bool) -> int:
    from .experiments import evaluate_run

    content = evaluate_run(
        options["run"], reference=options["reference"], device=options["device"], **_run_options(options)
    )
    return _report(content, as_json, options["out"])


def _demo(options: dict[str, Any], as_json: bool) -> int:
    from .experiments.demo import demo

    silent = as_json or options["quiet"]
    content = demo(seeds=options["seeds"], say=(lambda line: None) if silent else print, **_run_options(options))
    if as_json:
        print(json.dumps(content, indent=2))
    return DONE


def _doctor(options: dict[str, Any], as_json: bool) -> int:
    from .doctor import doctor, format_report

    report = doctor()
    print(json.dumps(report, indent=2) if as_json else format_report(report))
    return DONE


COMMANDS = {"train": _train, "unlearn": _unlearn, "evaluate": _evaluate, "demo": _demo, "doctor": _doctor}


def _config(kind: Any, options: dict[str, Any]) -> Any:
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})


def _run_options(options: dict[str, Any]) -> dict[str, Any]:
    return {"out": options["out"], "overwrite": options["overwrite"], "progress": not options["quiet"]}


def _report(content: dict[str, Any], as_json: bool, out: str) -> int:
    if as_json:
        print(json.dumps(content, indent=2))
        return DONE
    for metric in content["metrics"].values():
        value = f"{metric['value']:.2%}" if metric["unit"] == "fraction" else f"{metric['value']:.2f} {metric['unit']}"
        print(f"{metric['name'].replace('_', ' '):20} {value:>12}   n = {metric['n']:,}, ideal {metric['ideal']:g}, {metric['denominator']}")
    if search := content.get("search"):
        print(f"search               {search['reason']} after {search['steps']} steps")
    for note in content["warnings"]:
        print(f"note: {note}")
    print(f"run folder: {out}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
