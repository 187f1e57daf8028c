"""The parser of the command line, whose errors are one line and name flags."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from typing_extensions import override

from ..utils.did_you_mean import did_you_mean

USAGE = 2  # exit code of wrong usage
NUMBERS = {"int": "a whole number", "float": "a number"}
OF_PYTHON = r" \(\w+=\w*\)|,? (?:or )?\w+=\w*(?= or |\))"  # "(root=)", as beside "--root"


class Parser(argparse.ArgumentParser):
    """A parser that says of wrong usage what is wrong, what may have been meant, and where to read on."""

    @override
    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            message = f"unknown argument {unknown[1]!r}{did_you_mean(unknown[1].partition('=')[0], self._flags())}"
        elif wrong := re.match(r"argument (--[\w-]+).*: invalid (int|float) value: (.*)", message, re.S):
            message = f"{wrong[1]} must be {NUMBERS[wrong[2]]}, not {wrong[3]}"
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raises the error of the command, not of the whole program, for arguments that the command does not have."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    @override
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(action, error.message + did_you_mean(value, action.choices or ())) from None

    def _flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]

    def with_flags(self, message: str) -> str:
        """An error of the library with its arguments' names as the flags that give them.

        A name is replaced where it stands for itself: one of several words anywhere, one of a single word as the first
        of the message, or in a list of options. What Python is told to type beside a flag is left out.
        """
        message = re.sub(OF_PYTHON, "", message)
        for action in self._actions:
            flag = next((flag for flag in action.option_strings if flag.startswith("--")), None)
            if flag is None or action.dest == "help":
                continue
            name = re.escape(action.dest)
            if "_" in action.dest:
                message = re.sub(rf"(?<![\w/.'\"=-]){name}(?![\w/.'\"])(?!-)", flag, message)
            message = re.sub(rf"^(each of )?{name}(?= (?:must|is|has|have)\b)", rf"\1{flag}", message)
            message = re.sub(rf"((?:has no option|; it has)(?: [\w-]+,)* ){name}\b", rf"\1{flag}", message)
        return message
