"""Objectives: the scalar whose gradient says how much a parameter matters to a sample.

Sources: SSD is the Fisher diagonal of *Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening* (Foster, Schoepf, Brintrup), used in eq. 1 of *Potion*; LF and XLF are the *Potion* paper's eq. 3 and 4.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImportanceError
from ..modes import mode_named
from ..utils.adapter import Adapter, read_logits
from ..utils.did_you_mean import did_you_mean
from ..utils.labels import class_targets

Losses = Callable[[Tensor, Any], Tensor]  # the labels are a tensor, or None where the loader gives none


@dataclass(frozen=True)
class Objective:
    """What is differentiated, and what is made of the gradient.

    Attributes:
        name: Stands in every result and file.
        losses: (outputs, labels) -> losses [B], one per sample; the labels are those that the loader gives.
        square: Accumulate gradient² (True) or |gradient| (False).
        needs_labels: The losses use the labels.
        power: w where the losses are ‖f(x)‖₂^w (eq. 4), so that one backward pass serves several such objectives.
        of_logits: The outputs that the losses get are the logits [B, ...], see `Adapter`, and not what the model gives.
    """

    name: str
    losses: Losses
    square: bool = False
    needs_labels: bool = False
    power: float | None = None
    of_logits: bool = False

    def adapted(self, adapter: Adapter) -> Objective:
        """The same for a model whose logits the adapter finds in its output."""
        return replace(self, losses=of_logits(self.losses, adapter)) if self.of_logits else self


def of_logits(losses: Losses, adapter: Adapter) -> Losses:
    """Losses of whatever a model gives, by those of its logits."""

    def of_outputs(outputs: Any, labels: Tensor | None) -> Tensor:
        logits = read_logits(outputs, adapter)
        return losses(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, labels)

    return of_outputs


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(f(x))[y] of every sample (eq. 1): [B, C], [B] -> [B]; for other labels see `class_targets`."""
    return F.cross_entropy(_tensor(outputs), class_targets(outputs, labels), reduction="none")


def _tensor(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise ImportanceError(
            f"the model gives a {type(outputs).__name__} and the objective needs a tensor; pass a callable "
            "(outputs, labels) -> losses as the objective"
        )
    return outputs


def _rows(outputs: Any) -> Tensor:
    """[B, ...] -> [B, everything else]."""
    return _tensor(outputs).reshape(len(outputs), -1)


def squared_norm(outputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """‖f(x)‖₂² of every sample (eq. 3): [B, ...] -> [B]."""
    return _rows(outputs).square().sum(1)


def norm(outputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """‖f(x)‖₂ of every sample (eq. 4, w = 1): [B, ...] -> [B]. Where f(x) = 0 the gradient is 0."""
    return torch.linalg.vector_norm(_rows(outputs), dim=1)


def norm_over_classes(outputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """‖f(x)‖₂ over dimension 1, averaged over what follows it: [B, C, ...] -> [B]."""
    return _mean_of_rest(_norm_over_classes(outputs))


def norm_over_classes_squared(outputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """The square of that norm, averaged likewise: of [B, C] it is `squared_norm`, rounded in another order."""
    return _mean_of_rest(_norm_over_classes(outputs).pow(2))


def _norm_over_classes(outputs: Any) -> Tensor:
    outputs = _tensor(outputs)
    return torch.linalg.vector_norm(outputs if outputs.dim() > 1 else outputs[:, None], dim=1)


def _mean_of_rest(values: Tensor) -> Tensor:
    """[B, ...] -> [B]."""
    return values if values.dim() == 1 else values.flatten(1).mean(1)


OBJECTIVES: dict[str, Objective] = {
    "ssd": Objective("ssd", cross_entropy, square=True, needs_labels=True, of_logits=True),
    "lf": Objective("lf", squared_norm, power=2, of_logits=True),
    "xlf": Objective("xlf", norm, power=1, of_logits=True),
}


# As the public code forms them: LF as the norm squared, and the norm of outputs [B, C, ...] over dimension 1.
REFERENCE_OBJECTIVES: dict[str, Objective] = {
    "lf": Objective("lf", norm_over_classes_squared, of_logits=True),
    "xlf": Objective("xlf", norm_over_classes, of_logits=True),
}


def register_objective(objective: Objective) -> None:
    """Make an objective known by its name.

    Raises:
        ImportanceError: The name is taken.
    """
    if objective.name in OBJECTIVES:
        raise ImportanceError(f"an objective named {objective.name!r} is registered already; choose another name")
    OBJECTIVES[objective.name] = objective


def norm_power(w: float) -> Objective:
    """‖f(x)‖₂^w (eq. 4). A sample with f(x) = 0 contributes 0 for every w, as it does for w = 1.

    Args:
        w: The exponent, above 0 and finite.

    Raises:
        ImportanceError: It is out of range.
    """
    if not isinstance(w, int | float) or not 0 < w < math.inf:
        raise ImportanceError(f"the exponent w of eq. 4 must be above 0 and finite, not {w!r}")

    def losses(outputs: Tensor, labels: Tensor | None) -> Tensor:
        length = norm(outputs)  # [B]
        positive = length > 0
        return torch.where(positive, length, 1.0) ** w * positive  # 0^(w-1) is infinite for w < 1: keep it out

    return Objective(f"l2^{w:g}", losses, power=w, of_logits=True)


def resolve(objective: str | Losses | Objective | None, w: float | None) -> Objective:
    """The objective that a caller means.

    Args:
        objective: A name, a callable or an Objective; XLF by default.
        w: Instead of it, an exponent of eq. 4.

    Raises:
        ImportanceError: The name is not known, both are given, or w is out of range.
    """
    if w is not None:
        if objective is not None:
            raise ImportanceError("give either an objective or an exponent w, not both")
        return norm_power(w)
    if objective is None:
        objective = "xlf"
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            known, meant = ", ".join(OBJECTIVES), did_you_mean(objective, OBJECTIVES)
            raise ImportanceError(
                f"unknown objective {objective!r}; choose one of {known}, or register your own{meant}"
            )
        return OBJECTIVES[objective]
    if callable(objective):
        name = getattr(objective, "__qualname__", type(objective).__qualname__)
        check_callable(objective, name)
        return Objective(f"{objective.__module__}.{name}", objective)
    raise ImportanceError(f"an objective is a name, a callable or an Objective, not {type(objective).__name__}")


def check_callable(objective: Losses, name: str) -> None:
    """Raise ImportanceError where a callable is known to take something else than (outputs, labels)."""
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):  # one of C tells none
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ImportanceError(f"the objective {name} must take (outputs, labels): {error}") from None


def resolve_in_mode(objective: str | Losses | Objective | None, w: float | None, mode: str) -> Objective:
    """The objective that a caller means, in the form that gives the public code's bits where the mode is its own."""
    chosen = resolve(objective, w)
    built_in = chosen is OBJECTIVES.get(chosen.name)
    return REFERENCE_OBJECTIVES.get(chosen.name, chosen) if built_in and mode_named(mode).square_of_norm else chosen
