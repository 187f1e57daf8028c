"""Fields that several configurations have."""

from __future__ import annotations

from typing import Any

from ...modes import MODES
from ...user.schema import FILE_OR_LIST, setting


def mode_field() -> Any:
    """The mode, which sets defaults."""
    return setting(
        "default",
        "defaults to take: the library's own (default), of the public code (reference) or as printed in the paper "
        "(paper)",
        choices=MODES,
    )


def format_modes(name: str) -> str:
    """A setting's defaults by mode, for --help."""
    return "by the mode: " + ", ".join(f"{mode} {getattr(settings, name)}" for mode, settings in MODES.items())


def found_field() -> Any:
    """The found samples, S_f."""
    return setting(
        None,
        "the found samples, S_f: indices or file names in .txt, .csv, .json or .npy, or indices as 3,14,15",
        metavar=FILE_OR_LIST,
        default_text="found.txt of the run",
    )


def same_root_field() -> Any:
    """The folder of the data of an earlier training."""
    return setting(None, "folder of the data", metavar="DIR", default_text="where the training run read them")


def same_data_field() -> Any:
    """The data set of an earlier training: a file alone does not make code run, the user names it again."""
    return setting(
        None,
        "data set, where the training run's is a module:factory, code that is run",
        metavar="NAME",
        default_text="the training's",
    )


def same_model_field() -> Any:
    """The architecture of an earlier training, as `same_data_field`."""
    return setting(
        None,
        "architecture, where the training run's is a module:factory, code that is run",
        metavar="NAME",
        default_text="the training's",
    )


def reference_field() -> Any:
    """A training run without any of S_m."""
    return setting(
        None,
        "training run with --leave-out-poisoned, which poison healed is measured against",
        metavar="DIR",
        default_text="none, not measured",
    )
