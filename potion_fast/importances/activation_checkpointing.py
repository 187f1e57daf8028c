"""Refusal of activation checkpointing of the reentrant kind, which no pass can see through."""

from __future__ import annotations

import sys

from torch.autograd.function import FunctionCtx

from ..errors import ImportanceError

REENTRANT = (
    "the model uses activation checkpointing of the reentrant kind, which hides gradients from a pass; call "
    "torch.utils.checkpoint with use_reentrant=False, or switch checkpointing off"
)


def check_not_checkpointed() -> None:
    """Check that a layer called under `no_grad` is not called within a reentrant activation checkpoint.

    Its parameters have a gradient then, by a second call within the backward pass, which autograd gives to
    `Tensor.backward` alone and never to a pass that asks for gradients of its own.

    Raises:
        ImportanceError: It is.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_code.co_varnames[:1] in (("ctx",), ("context",)):
            context = frame.f_locals.get(frame.f_code.co_varnames[0])
            if isinstance(context, FunctionCtx) and type(context).__name__.startswith("Checkpoint"):
                raise ImportanceError(REENTRANT)
        frame = frame.f_back  # type: ignore[assignment]


def check_not_reentrant(error: Exception) -> None:
    """Raise ImportanceError if an error of a backward pass says that checkpointing of the reentrant kind is used."""
    if "use_reentrant" in str(error) and not isinstance(error, ImportanceError):
        raise ImportanceError(REENTRANT) from None
