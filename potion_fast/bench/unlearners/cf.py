"""Catastrophic forgetting: training goes on without what was found, in the hope that it fades."""

from __future__ import annotations

from .finetuning import OnlyTheEnd, Trained


class CF(Trained):
    """The whole model is trained further on the retain set (k = -1 in the public code)."""

    name = "cf"


class CFk(OnlyTheEnd):
    """The last k layers are trained further on the retain set."""

    name = "cf-k"
