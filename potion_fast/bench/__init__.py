"""The bench: attacks, trainings, unlearners, scores, sweeps and reports; needs the extra `bench`.

The library never imports it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attacks import register_attack as register_attack
    from .unlearners import register_unlearner as register_unlearner

_PUBLIC = {  # name -> module, which is imported when the name is first used
    "register_attack": ".attacks",
    "register_unlearner": ".unlearners",
}

__all__ = ["register_attack", "register_unlearner"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
