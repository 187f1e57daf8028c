"""A user's own code by "module:factory"."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ..errors import PotionError

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


def find_user_code(name: str, error_type: type[PotionError]) -> Callable[..., Any]:
    """Import the function that "module:factory" names. The module is run: only names that the user typed may come here.

    Args:
        name: dotted name of a module, a colon, and the name of a callable in it. Modules are also looked for in the
            current directory.
        error_type: what is raised where there is no such module or function, or the module raises an error.

    Returns:
        The callable.

    Raises:
        PotionError: as `error_type`.
    """
    module_name, _, factory_name = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise error_type(
            f"{name!r} is no module:factory; give the module as `import` takes it, as in package.module:make"
        )
    try:
        with _at_home():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and f"{module_name}.".startswith(f"{missing.name}."):
            raise error_type(f"there is no module {module_name!r} to make {name!r} with") from missing
        raise error_type(f"the module {module_name!r} cannot be imported: {where_raised(missing)}") from missing
    except (Exception, SystemExit) as error:  # of the user's own code
        raise error_type(f"the module {module_name!r} cannot be imported: {where_raised(error)}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        place = getattr(module, "__file__", None)
        found = "" if place is None else f" ({place})"
        raise error_type(f"the module {module_name!r}{found} has no function {factory_name!r}")
    return factory


def called(name: str, factory: Callable[..., Any], error_type: type[PotionError], *given: Any, **options: Any) -> Any:
    """What a function of the user's returns.

    Args:
        name: of the function, in errors.
        factory: the function.
        error_type: what is raised in place of its own error, which is in the text and is the cause.
        *given: its arguments.
        **options: its arguments by name.

    Raises:
        PotionError: as `error_type`.
    """
    try:
        with _at_home():
            return factory(*given, **options)
    except PotionError:
        raise
    except (Exception, SystemExit) as error:
        raise error_type(f"{name!r} failed: {where_raised(error)}") from error


@contextmanager
def _at_home() -> Iterator[None]:
    """For code of the user's: the current directory can be imported from, and what is printed goes to stderr."""
    here = os.getcwd()
    missing = here not in sys.path
    if missing:
        sys.path.append(here)  # last: nothing that is installed is shadowed
    try:
        with redirect_stdout(sys.stderr):  # results alone go to stdout
            yield
    finally:
        if missing and here in sys.path:
            sys.path.remove(here)


def where_raised(error: BaseException) -> str:
    """An error of the user's code in one line: its kind, its text, and the last line of that code it came through."""
    text = " ".join(str(error).split())
    if len(text) > 500:
        text = f"{text[:500]} …"
    kind = type(error).__name__ + (f": {text}" if text else "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((PACKAGE, "<")) and not _is_installed(frame.filename)
    ]
    return f"{kind} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else kind


def _is_installed(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith(os.path.dirname(os.__file__))
