"""The compiled module, where the installation had a compiler."""

from __future__ import annotations

import importlib
import os
from typing import Any

from ..errors import BackendError

native: Any = None  # potion_fast._native, or None where the install had no compiler
native_problem = ""  # why it is None
try:
    native = importlib.import_module("potion_fast._native")
except ModuleNotFoundError:
    native_problem = "the native module was not built: the installation found no C++ compiler"
except ImportError as error:
    native_problem = f"the native module does not load: {error}"
if native is None and os.environ.get("POTION_FAST_REQUIRE_NATIVE") == "1":
    raise BackendError(
        f"POTION_FAST_REQUIRE_NATIVE=1, but {native_problem}. Reinstall potion-fast with a C++ compiler."
    )
