"""Importances that the steps of one PTN search share: computed at its first step, kept while its loaders live."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from ..importances import Importance
from ..utils.crc import crc32
from .perturber import Perturber


class Kept(NamedTuple):
    """Importances of two loaders, and what they are of.

    Attributes:
        forget_loader: The loader of S_f.
        identity: Weights, buffers and objective that they were computed with.
        s: The share of the last step that used them.
        retain: Ω_r.
        forget: Ω_f.
    """

    forget_loader: weakref.ref[Any]
    identity: tuple[object, ...]
    s: float
    retain: Importance
    forget: Importance


_kept: weakref.WeakKeyDictionary[Any, Kept] = weakref.WeakKeyDictionary()  # by the retain loader; lives as long


def importances_of_step(
    perturber: Perturber,
    objective: str,
    retain_loader: Iterable[object],
    forget_loader: Iterable[object],
    s: float,
) -> tuple[Importance, Importance]:
    """Ω_r and Ω_f of a step of a search, Ω_r computed first.

    A step goes on where the one before it had a smaller s; a search begins with any other, and with other loaders
    (objects), weights, buffers or objectives, and computes anew. Loaders that take no weak reference, as lists, are
    read at every step.
    """
    identity = (_checksum(perturber.model), objective, perturber.label_at, str(perturber.device))
    try:
        kept, reference = _kept.get(retain_loader), weakref.ref(forget_loader)
    except TypeError:  # a list, say, takes no weak reference
        kept = reference = None
    goes_on = kept is not None and kept.forget_loader() is forget_loader and kept.identity == identity and s > kept.s
    if kept is None or not goes_on:
        retain = perturber.importance(perturber.batches(retain_loader))
        forget = perturber.importance(perturber.batches(forget_loader))
    else:
        retain, forget = kept.retain, kept.forget
    if reference is not None:
        _kept[retain_loader] = Kept(reference, identity, s, retain, forget)
    return retain, forget


def _checksum(model: nn.Module) -> int:
    """CRC-32 of the names and bytes of everything that importances depend on: all parameters and buffers."""
    code = 0
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        code = crc32(f"{name} {tensor.requires_grad}", tensor, start=code)
    return code
