"""Remove poison from trained models.

Healing: suspects → labels → fine-tuning. Potion: importance → thresholds → edits → search.

The public names are in `__all__` in the order in which data goes through them. Each is imported when it is first
used, so that importing the package alone takes no time.
"""

from __future__ import annotations

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from .errors import PotionError, PotionWarning

if TYPE_CHECKING:
    from .attack_success import AttackEstimate, AttackSuccess, SimulatedAttack, simulate_attack
    from .detection import Suspects, label_errors, suspects
    from .edits.plan import EditPlan
    from .finetuning import FineTuned, finetune
    from .healing import heal
    from .healing_result import HealResult
    from .importances import Importance, Objective, PassOptions, importance, register_objective, register_rule
    from .percentiles import thresholds
    from .relabel import ProposedLabels, propose_labels
    from .search import Grid, Result, SearchOptions, Setting, Step, ptn_search, ssd_grid
    from .unlearning import unlearn
    from .utils.adapter import Adapter, OneLogitAdapter

__version__ = "0.1.0"

__all__ = [
    "heal",
    "HealResult",
    "Suspects",
    "suspects",
    "label_errors",
    "ProposedLabels",
    "propose_labels",
    "FineTuned",
    "finetune",
    "AttackEstimate",
    "AttackSuccess",
    "SimulatedAttack",
    "simulate_attack",
    "Importance",
    "Objective",
    "PassOptions",
    "importance",
    "register_objective",
    "register_rule",
    "thresholds",
    "EditPlan",
    "SearchOptions",
    "Result",
    "Step",
    "ptn_search",
    "Grid",
    "Setting",
    "ssd_grid",
    "unlearn",
    "Adapter",
    "OneLogitAdapter",
    "PotionError",
    "PotionWarning",
]

_NAMES = {
    ".healing": ("heal",),
    ".healing_result": ("HealResult",),
    ".detection": ("Suspects", "suspects", "label_errors"),
    ".relabel": ("ProposedLabels", "propose_labels"),
    ".finetuning": ("FineTuned", "finetune"),
    ".attack_success": ("AttackEstimate", "AttackSuccess", "SimulatedAttack", "simulate_attack"),
    ".importances": ("Importance", "Objective", "PassOptions", "importance", "register_objective", "register_rule"),
    ".percentiles": ("thresholds",),
    ".edits": ("EditPlan",),
    ".search": ("SearchOptions", "Result", "Step", "ptn_search", "Grid", "Setting", "ssd_grid"),
    ".unlearning": ("unlearn",),
    ".utils.adapter": ("Adapter", "OneLogitAdapter"),
}
_MODULES = ("distributed", "drop_in", "edits", "importances", "modes", "ops", "percentiles", "search", "unlearning")

_IMPORTING = RLock()

if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        module = next((module for module, names in _NAMES.items() if name in names), None)
        if module is None and name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with _IMPORTING:  # threads that import modules at once, in several orders, may find one that is half made
            import_module("torch")  # before its modules: threads that import those first, at once, end the process
            if module is None:
                return import_module(f".{name}", __name__)  # which makes it an attribute of the package
            globals()[name] = value = getattr(import_module(module, __name__), name)
        return value


def __dir__() -> list[str]:
    own = globals().keys() - {"Any", "RLock", "TYPE_CHECKING", "annotations", "import_module"}
    return sorted({*own, *__all__, *_MODULES})
