"""Methods that make a model forget the poisoned samples that were found, by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...errors import PotionError
from .assd import ASSD
from .badt import BadT
from .base import Unlearned, Unlearner
from .cf import CF, CFk
from .cfk_pawelczyk import CFkPawelczyk
from .eu import EU
from .euk_goel import EUkGoel
from .euk_pawelczyk import EUkPawelczyk
from .ga import GA
from .gd import GD
from .jit import JiT
from .neggrad_plus import NegGradPlus
from .ngd import NGD
from .none import NoUnlearning
from .ptn import PTNLF, PTNSSD, PTNXLF
from .retrain import Retrain
from .scrub_goel import ScrubGoel
from .scrub_kurmanji import ScrubKurmanji
from .scrub_pawelczyk import ScrubPawelczyk
from .ssd_goel import SSDGoel

_ALL: tuple[type[Unlearner], ...] = (
    *(PTNXLF, PTNLF, PTNSSD, ASSD, SSDGoel),
    *(EU, EUkGoel, CF, CFk, BadT, ScrubGoel),
    *(GD, NGD, GA, EUkPawelczyk, CFkPawelczyk, ScrubPawelczyk, ScrubKurmanji, NegGradPlus, JiT, Retrain),
    NoUnlearning,
)
UNLEARNERS: dict[str, type[Unlearner]] = {unlearner.name: unlearner for unlearner in _ALL}


def make_unlearner(name: str, **settings: Any) -> Unlearner:
    """An unlearner by its registered name; its settings are the fields of its class.

    Raises PotionError for an unknown name or setting, or a value out of range.
    """
    if name not in UNLEARNERS:
        raise PotionError(f"unknown unlearner {name!r}; known: {', '.join(UNLEARNERS)}")
    known = [each.name for each in fields(UNLEARNERS[name])]
    if unknown := sorted(set(settings) - set(known)):
        raise PotionError(f"the unlearner {name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    return UNLEARNERS[name](**settings)


__all__ = ["UNLEARNERS", "Unlearned", "Unlearner", "make_unlearner", *(each.__name__ for each in _ALL)]
