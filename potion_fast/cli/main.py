"""The console script `potion-fast`: a sub-command for each thing that it does, imported when it is called."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .. import __version__
from ..errors import PotionError
from .output import EXIT_CODES, FAILED, INTERRUPTED
from .parser import Parser

PACKAGES = {  # that the extras cli and bench bring, by the modules that are imported
    "PIL": "Pillow",
    "matplotlib": "matplotlib",
    "pydantic": "pydantic",
    "timm": "timm",
    "torchvision": "torchvision",
    "yaml": "PyYAML",
}


GO_ON = ("sweep", "craft")  # what is done is not done again


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        summary: what it does, for --help.
        module: of this package, with `add_NAME(parser)`, which declares its arguments, and `run_NAME(options)`, which
            does it and returns the exit code.
        extra: the extra that installs the packages that it needs.
    """

    summary: str
    module: str
    extra: str = "bench"


COMMANDS = {
    "train": Command("train a model on poisoned data; writes a run folder", "runs"),
    "find": Command("search training data for poison, with found samples or without; writes a run folder", "find"),
    "heal": Command(
        "find the rest of the poison and heal the model, of a training run or your own; writes a run folder", "heal"
    ),
    "unlearn": Command("dampen the poison in the model of a training run, as Potion does; writes a run folder", "runs"),
    "evaluate": Command("evaluate the model of a run again; writes a run folder", "runs"),
    "craft": Command("craft the perturbations of a poison; writes a run folder, and resumes an unfinished one", "runs"),
    "preview": Command("show what a poison does to images, or texts, and labels; writes a run folder", "poisoned_data"),
    "export": Command("write the poisoned data as image files or .npz; writes a run folder", "poisoned_data"),
    "tokenize": Command("tokenize IMDB's published reviews, once; writes a folder", "reviews"),
    "demo": Command("poison a small model, heal it, and draw what happened; writes a run folder", "demo"),
    "sweep": Command("run a grid of scenarios: train, unlearn and evaluate what is not done yet", "sweeps"),
    "report": Command("make the tables, figures and page of a sweep's results", "sweeps"),
    "hypothesis": Command("measure why unlearning fails on poison; writes a run folder", "hypotheses"),
    "plan": Command("predict time, bytes and memory of unlearning, on one device or many", "plan"),
    "doctor": Command("show what is built, what this machine has, and which backend runs each op", "doctor", "cli"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command. Only results go to stdout; progress and errors go to stderr.

    Args:
        arguments: of the command line; None: those of the process.

    Returns:
        The exit code, see `EXIT_CODES`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without α gets a question mark
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    used, options = None, dict[str, Any]()
    try:
        top = parser(name)
        used = command_parser(top, name) if name is not None else top
        options = vars(top.parse_args(arguments))
        command = options.pop("command")
        code: int = getattr(_module(command), f"run_{command}")(options)
        return code
    except (PotionError, OSError) as error:  # OSError: a file or folder that may not be read or written
        message = re.sub(r"\s*\n\s*", " ", str(error))  # one line, whatever a library's own error in it has
        message = message if used is None else used.with_flags(message)
        print(f"potion-fast {name}: error: {message}", file=sys.stderr)
        return FAILED
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if name is None or package not in PACKAGES:
            raise
        install = f"pip install 'potion-fast[{COMMANDS[name].extra}]'"
        print(
            f"potion-fast {name}: error: this command needs {PACKAGES[package]}; install it with: {install}",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print(f"potion-fast {name}: interrupted{_how_to_go_on(name, options)}", file=sys.stderr)
        return INTERRUPTED


def _how_to_go_on(name: str | None, options: Mapping[str, Any]) -> str:
    """What to do after an interrupt, where there is something on the disk."""
    if name in GO_ON:
        return "; start it again, and it goes on"
    begun = "overwrite" in options and options.get("out") is not None and Path(options["out"]).exists()
    return f"; start it again with --overwrite, as {options['out']} is there now" if begun else ""


def command_parser(top: Parser, name: str) -> Parser:
    """The parser of a sub-command."""
    (action,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    of_command: Parser = action.choices[name]
    return of_command


def parser(name: str | None = None) -> Parser:
    """The command line.

    Args:
        name: the sub-command that is called: its module is imported, and it alone has its arguments.
    """
    top = Parser(prog="potion-fast", description="Heal poisoned models.", epilog=EXIT_CODES)
    top.add_argument("--version", action="version", version=f"potion-fast {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command_name, command in COMMANDS.items():
        description = command.summary[0].upper() + command.summary[1:] + "."
        added = commands.add_parser(command_name, help=command.summary, description=description, epilog=EXIT_CODES)
        if command_name == name:
            getattr(_module(name), f"add_{name}")(added)
    return top


def _module(name: str) -> ModuleType:
    return import_module(f".{COMMANDS[name].module}", __package__)


if __name__ == "__main__":
    sys.exit(main())
