"""A user's own code by "module:factory"."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from ..errors import PotionError


def find_user_code(name: str, error_type: type[PotionError]) -> Callable[..., Any]:
    """Import the function that "module:factory" names. The module is run: only names that the user typed may come here.

    Args:
        name: dotted name of a module, a colon, and the name of a callable in it. Modules are also looked for in the
            current directory.
        error_type: what is raised where there is no such module or function.

    Returns:
        The callable.

    Raises:
        PotionError: as `error_type`. The errors of the module itself pass.
    """
    module_name, _, factory_name = name.partition(":")
    here = os.getcwd()
    sys.path.append(here)  # last: nothing that is installed is shadowed
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise  # an import within the module
        raise error_type(f"there is no module {module_name!r} to make {name!r} with") from missing
    finally:
        sys.path.remove(here)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise error_type(f"the module {module_name!r} has no function {factory_name!r}")
    return factory
