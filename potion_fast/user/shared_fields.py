"""Fields that the configurations of a user's own model and those of training runs have in common."""

from __future__ import annotations

from typing import Any

from .schema import SEEDS, setting


def seed_field(default: int | None = 0, default_text: str | None = None) -> Any:
    """The seed."""
    return setting(default, "of every random draw", metavar="N", default_text=default_text, ge=0, lt=SEEDS)


def device_field() -> Any:
    """The device."""
    return setting("auto", "cpu, cuda or cuda:N; auto takes a CUDA GPU where there is one", metavar="NAME")


def workers_field() -> Any:
    """Processes that load data."""
    return setting(0, "processes that load data; 0 loads them in this one", metavar="N", ge=0, le=1024)


def rate_field() -> Any:
    """The false discovery rate of suspects."""
    return setting(0.05, "share of false ones among the suspects that is accepted", metavar="SHARE", gt=0, lt=1)


def labels_field() -> Any:
    """The source of the suspects' labels."""
    return setting("auto", "where the suspects' new labels come from; auto takes the source that is best here")


def max_damage_field() -> Any:
    """What a healing may cost."""
    return setting(0.5, "points of clean accuracy that may be lost without a warning", metavar="POINTS", ge=0, le=100)


def amp_field() -> Any:
    """The precision of autocast."""
    return setting(None, "precision of the model, which runs under autocast", default_text="that of the weights")


def label_errors_field() -> Any:
    """What is sought in place of poison."""
    return setting(False, "list labels that are likely errors, by cleanlab, in place of poison")
