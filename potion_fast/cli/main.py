"""The console script `potion-fast`, a sub-command for each thing that it does."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from .. import __version__
from ..bench.configs.flags import CRAFT, EVALUATE, POISONED_DATA, TRAIN, UNLEARN, add_flags
from ..bench.costs.command import add_plan_flags, plan_costs
from ..bench.costs.words import costs_in_words
from ..bench.hypotheses import CosineConfig, ShiftConfig, cosine_in_words, cosine_run, shift_in_words, shift_run
from ..bench.hypotheses.flags import COSINE, SHIFT
from ..bench.report import SAMPLES, report_sweep
from ..bench.runs import (
    CraftConfig,
    EvaluateConfig,
    TrainConfig,
    UnlearnConfig,
    craft_run,
    evaluate_run,
    export_run,
    preview_run,
    train_run,
    unlearn_run,
)
from ..bench.runs.demo import demo
from ..bench.runs.tokenize import VOCABULARY, tokenize
from ..bench.sweep import in_words, plan_sweep, presets, run_sweep
from ..errors import FileError, PotionError
from ..search import STRATEGIES, THRESHOLD_PASSED
from .doctor import doctor, format_report

DONE, FAILED, NOT_HEALED, INTERRUPTED = 0, 1, 3, 130  # argparse ends with 2
EXIT_CODES = (
    "exit codes: 0 done; 1 an error, named on stderr; 2 wrong usage; "
    "3 done, but the search ended before its threshold; 130 interrupted"
)

Options = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code. Only results go to stdout; progress and errors go to stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without α gets a question mark
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        return COMMANDS[command](options)
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

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        description = summary[0].upper() + summary[1:] + "."
        added = commands.add_parser(name, help=summary, description=description, epilog=EXIT_CODES)
        added.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        return added

    train = command("train", "train a model on poisoned data; writes a run folder")
    add_flags(train, TrainConfig, TRAIN)
    unlearn = command("unlearn", "heal the model of a training run; writes a run folder")
    unlearn.add_argument("run", metavar="RUN", help="folder of the training run")
    add_flags(unlearn, UnlearnConfig, UNLEARN)
    evaluate = command("evaluate", "evaluate the model of a run again; writes a run folder")
    evaluate.add_argument("run", metavar="RUN", help="folder of a training or an unlearning run")
    add_flags(evaluate, EvaluateConfig, EVALUATE)
    craft = command(
        "craft", "craft the perturbations of a poison; writes a run folder, and goes on with an unfinished one"
    )
    craft.add_argument("run", metavar="RUN", help="folder of a training with --leave-out-poisoned")
    add_flags(craft, CraftConfig, CRAFT)
    preview = command("preview", "show what a poison does to images, or texts, and labels; writes a run folder")
    add_flags(preview, TrainConfig, POISONED_DATA)
    preview.add_argument("--images", type=int, default=6, metavar="N", help="samples to show, at most 12 (default: 6)")
    export = command("export", "write the poisoned data as image files or .npz; writes a run folder")
    add_flags(export, TrainConfig, POISONED_DATA)
    export.add_argument(
        "--form",
        choices=("folder", "npz"),
        default="folder",
        help="PNG files in a folder per class, or .npz files (default: folder)",
    )
    _add_tokenize(command("tokenize", "make tokens of IMDB's published reviews, once; writes a folder"))
    show = command("demo", "poison a small model, heal it, and draw what happened; writes a run folder")
    show.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one demo for each (default: 0)")
    for writes in (train, unlearn, evaluate, craft, preview, export, show):
        writes.add_argument("--out", required=True, metavar="DIR", help="run folder to write; must be new or empty")
        writes.add_argument("--overwrite", action="store_true", help="write over an earlier run in --out")
        writes.add_argument(
            "--quiet", action="store_true", help="print the result alone: no progress bars, no commentary"
        )
    sweep = command("sweep", "do a grid of scenarios: train, unlearn and evaluate what is not done yet")
    sweep.add_argument("sweep", metavar="NAME|FILE", help=f"a YAML file, or one of {', '.join(presets())}")
    sweep.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help='for instance train.width=16 or "found=[1, 0.5]"'
    )
    sweep.add_argument("--out", required=True, metavar="DIR", help="folder of the sweep; what is done in it stays")
    sweep.add_argument(
        "--root", metavar="DIR", help="folder of the data (default: $POTION_FAST_DATA; digits need none)"
    )
    sweep.add_argument("--processes", type=int, default=1, metavar="N", help="that share the work (default: 1)")
    sweep.add_argument("--only", default="*", metavar="PATTERN", help="names of the unlearnings to do (default: all)")
    sweep.add_argument(
        "--dry-run", action="store_true", help="say how much it is and how long it takes, and do nothing"
    )
    sweep.add_argument("--quiet", action="store_true", help="print the result alone")
    report = command("report", "make the tables, figures and page of a sweep's results")
    report.add_argument("sweep", metavar="DIR", help="folder of the sweep")
    report.add_argument(
        "--out", metavar="DIR2", help="folder to write; an earlier report in it is replaced (default: DIR/report)"
    )
    report.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"training images to measure a model on, for figures 3 to 5 and 7; 0: use no model (default: {SAMPLES})",
    )
    _add_hypotheses(commands)
    add_plan_flags(command("plan", "say what unlearning takes, in time, bytes and memory, on one device or many"))
    command("doctor", "what is built, what this machine has, and which backend runs each operation")
    return top


def _add_tokenize(made: argparse.ArgumentParser) -> None:
    made.add_argument("root", metavar="ROOT", help="the published folder aclImdb, which holds train/ and test/")
    made.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
    made.add_argument(
        "--vocabulary", type=int, metavar="N", help=f"tokens of a tokenizer that is trained (default: {VOCABULARY})"
    )
    made.add_argument(
        "--tokenizer", metavar="NAME|DIR", help="instead, one of a folder or of Hugging Face's hub, as gpt2"
    )
    made.add_argument("--download", action="store_true", help="download that tokenizer unless it is in the cache")
    made.add_argument("--word", metavar="WORD", help="also count the reviews that hold it, by each rule")


def _add_hypotheses(commands: Any) -> None:
    summary = "measure why unlearning fails on poison; writes a run folder"
    which = commands.add_parser("hypothesis", help=summary, description=f"{summary.capitalize()}.", epilog=EXIT_CODES)
    kinds = which.add_subparsers(dest="hypothesis", required=True, metavar="HYPOTHESIS", help="which of the two")
    for name, config, flags, text in (
        ("shift", ShiftConfig, SHIFT, "how far a linear classifier moves without its poison, or without clean samples"),
        ("cosine", CosineConfig, COSINE, "whether gradients of clean samples point to where poison has to be undone"),
    ):
        one = kinds.add_parser(name, help=text, description=f"{text.capitalize()}.", epilog=EXIT_CODES)
        add_flags(one, config, flags)
        one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N", help="(default: 0 to 4)")
        one.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        one.add_argument("--out", required=True, metavar="DIR", help="run folder to write; must be new or empty")
        one.add_argument("--overwrite", action="store_true", help="write over an earlier run in --out")
        one.add_argument("--quiet", action="store_true", help="print the result alone: no progress bars, no commentary")


def _train(options: Options) -> int:
    return _report(train_run(_config(TrainConfig, options), **_run_options(options)), options)


def _unlearn(options: Options) -> int:
    return _report(unlearn_run(_config(UnlearnConfig, options), **_run_options(options)), options)


def _evaluate(options: Options) -> int:
    return _report(evaluate_run(_config(EvaluateConfig, options), **_run_options(options)), options)


def _craft(options: Options) -> int:
    return _report(craft_run(_config(CraftConfig, options), **_run_options(options)), options)


def _hypothesis(options: Options) -> int:
    shift = options["hypothesis"] == "shift"
    config = _config(ShiftConfig if shift else CosineConfig, options | {"seeds": tuple(options["seeds"])})
    content = (shift_run if shift else cosine_run)(config, **_run_options(options))
    lines = [*(shift_in_words if shift else cosine_in_words)(content), f"run folder: {options['out']}"]
    _print(_json(content) if options["json"] else "\n".join(lines))
    return DONE


def _preview(options: Options) -> int:
    out, overwrite = options["out"], options["overwrite"]
    content = preview_run(_config(TrainConfig, options), out, images=options["images"], overwrite=overwrite)
    what, where = ("image", "picture") if content["file"].endswith(".png") else ("review", "reviews")
    lines = (f"{what} {shown['index']}: label {shown['label']}, given {shown['given']}" for shown in content["shown"])
    _print(_json(content) if options["json"] else "\n".join((*lines, f"{where}: {os.path.join(out, content['file'])}")))
    return DONE


def _export(options: Options) -> int:
    content = export_run(_config(TrainConfig, options), form=options["form"], **_run_options(options))
    lines = (f"{name}: {count} images" for name, count in content["images"].items())
    _print(_json(content) if options["json"] else "\n".join((*lines, f"run folder: {options['out']}")))
    return DONE


def _tokenize(options: Options) -> int:
    named = ("root", "out", "vocabulary", "tokenizer", "download", "word")
    content = tokenize(**{name: options[name] for name in named})
    lines = [
        f"{name}: {content[name]['texts']:,} reviews, {content[name]['tokens']:,} tokens" for name in ("train", "test")
    ]
    lines += [
        f"{content['word']}, {rule}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
        for rule, counts in content["holding"].items()
    ]
    lines += [f"vocabulary: {content['vocabulary']:,} tokens", f"folder: {options['out']}"]
    _print(_json(content) if options["json"] else "\n".join(lines))
    return DONE


def _demo(options: Options) -> int:
    say = (lambda line: None) if options["json"] else _print
    content = demo(seeds=options["seeds"], say=say, **_run_options(options))
    if options["json"]:
        _print(_json(content))
    return max(_exit_code(seed["after"]) for seed in content["seeds"])


def _report_sweep(options: Options) -> int:
    content = report_sweep(options["sweep"], options["out"], samples=options["samples"])
    if options["json"]:
        _print(_json(content))
        return DONE
    _print(f"{content['rows']} rows, {len(content['tables'])} tables, {len(content['figures'])} figures")
    for name, why in content["not_drawn"].items():
        _print(f"not drawn: {name}: {why}")
    _print(f"page: {content['page']}")
    return DONE


def _sweep(options: Options) -> int:
    told = {name: options[name] for name in ("overrides", "root", "only")}
    if options["dry_run"]:
        content = plan_sweep(options["sweep"], options["out"], **told)
        _print(_json(content) if options["json"] else "\n".join(in_words(content["name"], content)))
        return DONE
    told |= {"processes": options["processes"], "progress": not options["quiet"]}
    content = run_sweep(options["sweep"], options["out"], **told)
    done = content["tasks"] - len(content["undone"])
    _print(
        _json(content) if options["json"] else f"{done} of {content['tasks']} tasks are done; sweep: {options['out']}"
    )
    return FAILED if content["undone"] else DONE


def _plan(options: Options) -> int:
    content = plan_costs(options)
    _print(_json(content) if options["json"] else "\n".join(costs_in_words(content)))
    return DONE


def _doctor(options: Options) -> int:
    report = doctor()
    _print(json.dumps(report, indent=2) if options["json"] else format_report(report))
    return DONE


COMMANDS = {
    "train": _train,
    "unlearn": _unlearn,
    "evaluate": _evaluate,
    "craft": _craft,
    "preview": _preview,
    "export": _export,
    "tokenize": _tokenize,
    "demo": _demo,
    "sweep": _sweep,
    "report": _report_sweep,
    "hypothesis": _hypothesis,
    "plan": _plan,
    "doctor": _doctor,
}


def _config(kind: Any, options: Options) -> Any:
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})


def _run_options(options: Options) -> Options:
    return {"out": options["out"], "overwrite": options["overwrite"], "progress": not options["quiet"]}


def _report(content: dict[str, Any], options: Options) -> int:
    """Print what a run found; returns the exit code."""
    if options["json"]:
        _print(_json(content))
        return _exit_code(content)
    for metric in content["metrics"].values():
        name = metric["name"].replace("_", " ")
        _print(f"{name:20}{_value(metric, 'value'):>26}   ideal {_value(metric, 'ideal')}; {metric['denominator']}")
    if search := content.get("search"):
        unit = STRATEGIES[search["strategy"]].trace_unit
        _print(f"search: {search['reason']} after {search['steps']} {unit}")
    for note in content["warnings"]:
        _print(f"note: {note}")
    _print(f"run folder: {options['out']}")
    return _exit_code(content)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False)


def _value(metric: dict[str, Any], name: str) -> str:
    value, unit = metric[name], metric["unit"]
    if value is None:
        return "not finite"
    if unit == "loss":  # may be a millionth
        return f"{value:.4g}"
    return f"{100 * value:.2f} %" if unit == "fraction" else f"{value:.2f} {'%' if unit == 'percent' else unit}"


def _exit_code(content: dict[str, Any]) -> int:
    search = content.get("search")
    return DONE if search is None or search["reason"] == THRESHOLD_PASSED else NOT_HEALED


def _print(text: str) -> None:
    """Print at once. A reader that has gone away, as `| head` does, loses the lines and not the run."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit stumbles over the same lines
        if not isinstance(error, BrokenPipeError):
            raise FileError(f"cannot print the result: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
