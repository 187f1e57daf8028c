"""The public interfaces of two repositories, each in a module of its own: their users change an import.

`potion_fast.drop_in.potion` is that of Potion's code (`towards_poison_unlearning`), with batches (image, label, flag);
`potion_fast.drop_in.ssd` is that of SSD's (`selective-synaptic-dampening`), with batches (image, _, label). Both have a
`ParameterPerturber` and an `ssd_tuning`, which differ. Both were written from a description of the interfaces, none of
their code.

What is unambiguous is here too: Potion's `assd_tuning` and `alfssd_tuning`, and for batches of two, which have one form
only, an `ssd_tuning`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import potion, ssd
from .batches import NEITHER
from .perturber import tune
from .potion import alfssd_tuning, assd_tuning

__all__ = ["alfssd_tuning", "assd_tuning", "potion", "ssd", "ssd_tuning"]


class _OfTwo(potion.ParameterPerturber_old):
    form = NEITHER


def ssd_tuning(
    model: nn.Module,
    forget_train_dl: Iterable[object],
    dampening_constant: float,
    selection_weighting: float,
    full_train_dl: Iterable[object],
    device: torch.device | str | int,
    *,
    label_at: int | None = None,
) -> nn.Module:
    """`potion.ssd_tuning` for batches (input, label).

    Those of three are refused unless `label_at` says where the label is: it is second in Potion and third in SSD.

    Raises:
        PotionError: See `potion.ssd_tuning`; DataError for batches of three.
    """
    numbers = {"dampening_constant": dampening_constant, "selection_weighting": selection_weighting}
    tune(_OfTwo(model, None, device, numbers, label_at=label_at), forget_train_dl, full_train_dl)
    return model


if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        if name in ("ParameterPerturber", "ParameterPerturber_old"):
            # An AttributeError would be lost: `from ... import` makes its own error of it.
            raise ImportError(
                f"{name} is of one repository: import it from potion_fast.drop_in.potion, whose batches are (image, "
                "label, flag), or from potion_fast.drop_in.ssd, whose batches are (image, _, label)"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
